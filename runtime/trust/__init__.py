"""Keys, signatures and a file of trusted keys ─▶ whether a package or an adapter is what somebody trusted has signed.

Knows neither how those are made nor where they come from; ``cryptography`` and ``securesystemslib`` (the extra
``sign``) do the arithmetic and own the envelope.
"""
