"""Command lines -> calls of this room: ``powertrain export``, ``engine`` and ``inspect``.

Owns flags and what is printed; knows no tensor and no graph.
"""
