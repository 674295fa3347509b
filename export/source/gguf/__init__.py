"""A GGUF file -> a ``Checkpoint``. Trusts no byte of the file; knows nothing of recipes or graphs."""
