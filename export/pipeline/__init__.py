"""A pipeline file -> packages with their plans, nothing built twice: the matrix, the steps, the cache, the processes.

Builds nothing itself: each step is a call of ``export.source``, ``export.package`` or ``export.plan`` in a process of
its own. Knows no command line.
"""
