"""What a model takes of its device beside its KV cache, told before it is loaded. Opens neither graph nor device."""

from __future__ import annotations

from dataclasses import replace

from runtime.loading.gpu_loader import fixed_gpu_parts
from runtime.loading.model_loader import ModelOptions, cpu_weight_bytes, plan_model
from runtime.package.manifest import Package
from runtime.session.kv_budget import KVPlan, available_memory_bytes

_SHARE = 0.8
"""Of what is free, for models: the rest is for Python, libraries, texts in flight and other processes."""


def device_of(options: ModelOptions) -> str:
    """Whose memory a model takes: ``cpu``, or a GPU's UUID."""
    return "cpu" if options.backend.gpu is None else options.backend.gpu.uuid


def free_for_models(options: ModelOptions) -> int:
    """Bytes of that device that all models together may take where the operator says nothing."""
    free = available_memory_bytes() if options.backend.gpu is None else options.backend.gpu.free_bytes
    return int(free * _SHARE)


def fixed_bytes(package: Package, options: ModelOptions) -> int:
    """Bytes that do not depend on the cache: weights; on a GPU also logits, and a plan's scratch.

    Raises PackageError for a package that the backend cannot run.
    """
    if options.backend.gpu is None:
        return cpu_weight_bytes(package)
    return sum(fixed_gpu_parts(package, options.backend, options.kv_wishes).values())


def planned_cache(package: Package, options: ModelOptions, budget_bytes: int) -> KVPlan:
    """The cache that ``budget_bytes`` give, as it was asked for. Raises KVBudgetError with the arithmetic."""
    return plan_model(package, replace(options, kv_cache_bytes=budget_bytes, kv_cache_share=None))
