"""Programs that run in another engine's environment, started by path; nothing here imports them."""
