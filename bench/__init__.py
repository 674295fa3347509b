"""Measures: the runtime in process, and any OpenAI-compatible endpoint from outside."""
