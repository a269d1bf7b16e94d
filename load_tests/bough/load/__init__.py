"""Load on an OpenAI-compatible server, the speed of Bough's parts, and the comparison with other engines."""
