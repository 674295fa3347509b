"""Command lines -> measurements: the words of ``powertrain bench``. Owns flags and printed tables; computes nothing."""
