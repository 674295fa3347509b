"""Two packages -> how they differ: what the manifests say, texts and tokens, graphs, and how far weights lie apart.

Knows no printing and builds nothing; reads a package's files through its manifest only.
"""
