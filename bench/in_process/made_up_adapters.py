"""Adapters of random numbers for a package with room for them: what a step costs depends on sizes alone."""

from __future__ import annotations

from msgspec import UnsetType
from runtime.adapter import Adapter
from runtime.adapters.fitted import made_up_adapter
from runtime.package.manifest import Package

from bench.errors import BenchError


def made_up_adapters(package: Package, count: int) -> list[Adapter]:
    """``count`` adapters at the full rank, none for 0. Raises BenchError where the package has no room for any."""
    room = package.manifest.adapters
    if not count:
        return []
    if isinstance(room, UnsetType):
        raise BenchError(f"package {package.manifest.name!r} has no room for adapters; export it with --lora-rank")
    return [made_up_adapter(room, seed) for seed in range(count)]
