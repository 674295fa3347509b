"""Manifest ─▶ what an artifact says of where it comes from: an in-toto statement (SLSA provenance) and a CycloneDX BOM.

Every byte follows from the manifest, or from a plan's sidecar beside it: no clock, no host and no path is asked. Knows
neither how packages are built nor who signs them.
"""
