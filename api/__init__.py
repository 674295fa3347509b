"""Tokens -> HTTP. The only room that may import litestar."""
