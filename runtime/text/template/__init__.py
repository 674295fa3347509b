"""Chat templates that nobody needs to trust: a process of its own renders them and tells whose words are whose.

``process`` is the server's side, ``worker`` the other; ``wire`` is all that passes between them. Knows no tokenizer.
"""
