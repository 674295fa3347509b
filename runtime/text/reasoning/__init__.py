"""A model's answer -> the reasoning section before it, and what the section means for a constraint.

``forms`` knows the sections by name and by the marks in a chat template, ``parser`` reads one. Knows no tool call, no
tokenizer, no request and no HTTP.
"""
