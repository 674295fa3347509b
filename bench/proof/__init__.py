"""Proves the benchmark's own formulas: a mock endpoint with exact latencies, in real or simulated time."""
