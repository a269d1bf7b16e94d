"""Compiles JSON schemas and regular expressions into token grammars."""
