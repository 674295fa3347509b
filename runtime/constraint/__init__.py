"""What a client demands of an answer's text -> masks of the tokens that may come next.

The only folder that imports llguidance. Knows tokens' bytes; knows no engine, no request fields and no HTTP.
"""
