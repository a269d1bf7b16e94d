"""Text to token ids: Hugging Face fast tokenizers and chat templates."""
