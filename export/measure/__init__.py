"""A checkpoint -> which precision it bears, and how far the written graph is from float32.

Runs graphs, on the built-in texts only. Knows no source format and writes nothing into a package.
"""
