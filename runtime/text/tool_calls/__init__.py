"""A model's answer -> the tool calls in it, and what an answer must look like for a call to be one.

``selection`` knows the formats by name and by the marks in a chat template; each format is a file that states its
marks, how its calls are read (``parser``, ``cursor``) and how they are enforced (``enforcement``). Knows no tokenizer,
no template renderer, no request and no HTTP.
"""
