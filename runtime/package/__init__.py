"""What export and runtime agree on: the package's manifest, its graphs' inputs and outputs, its plans' sidecars.

Values, and the checks that they are what is on disk. Knows no session and runs nothing.
"""
