"""Fixtures of the fleet's tests."""

from __future__ import annotations

from tests.fleet.ray_double import on_doubles

__all__ = ["on_doubles"]
