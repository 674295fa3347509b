"""Bytes of a body -> validated fields, a prompt and sampling rules. Knows no engine and no answer."""
