"""A package and the operator's wishes -> a backend that works here, and a session that was proven on it.

The one place that knows every backend. Knows no request.
"""
