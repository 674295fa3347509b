"""A Hugging Face folder -> a ``Checkpoint``: config, safetensors, tokenizer files. Opens no pickle, runs no code."""
