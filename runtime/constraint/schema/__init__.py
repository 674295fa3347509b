"""A JSON schema -> a schema of the same meaning that llguidance enforces exactly, or a refusal.

Pure functions on JSON text. Knows how llguidance reads a schema; does not import it, and knows no grammar or tokens.
"""
