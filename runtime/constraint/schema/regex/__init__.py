"""Regular expressions of JSON Schema (ECMA-262) -> languages that can be joined, complemented, asked and written again.

Knows text and automata; knows no schema and no JSON.
"""
