"""Measures: the runtime in process, and any OpenAI-compatible endpoint from outside.

``http`` and ``in_process`` measure, ``metrics`` holds every formula, ``report`` shows results, ``proof`` measures the
benchmark itself, ``peers`` runs others beside us. Knows nothing of how a server is built.
"""
