"""Rows of logits -> tokens and log-probabilities, by a request's rules. Knows no slots and no text."""
