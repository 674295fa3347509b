"""Compiles one ``trt`` graph, and a selection head, for one target: parse, check, profiles, build. Knows no package and
writes no file.

The builder runs on a thread of its own while the caller's waits: Ctrl-C then reaches Python at once, the monitor's
next answer stops the builder, and nothing half-built is left.
"""

from __future__ import annotations

import resource
import threading
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from runtime.errors import PlanError
from runtime.package.graph_profiles import profile_shapes

from export.plan.attention import allow_unfused_attention
from export.plan.library import Library, make_logger
from export.plan.network import NetworkFacts, check_network, parse_graph, parse_head
from export.plan.progress import OnFraction, make_monitor
from export.plan.settings import PlanSettings, check_settings
from export.plan.targets import Target


@dataclass(frozen=True, slots=True)
class BuiltPlan:
    """Serialized plans and what their build cost. ``peak_memory_bytes`` is the process's highest resident size.

    ``data`` and ``selection`` (empty without a head) are TensorRT's own memory. ``scratch_bytes`` is the activation
    memory of the largest profile of both, added up, 0 if unknown.
    """

    data: memoryview
    scratch_bytes: int
    facts: NetworkFacts
    build_seconds: float
    peak_memory_bytes: int
    selection: memoryview = field(default_factory=lambda: memoryview(b""))


def build_plan(
    graph: Path,
    capacity: int,
    target: Target,
    settings: PlanSettings,
    on_fraction: OnFraction,
    *,
    head: Path | None = None,
) -> BuiltPlan:
    """Build ``graph`` for ``target`` with cache slots of ``capacity`` rows, and the selection ``head`` if there is one.

    Raises PlanError with TensorRT's reason; KeyboardInterrupt ends the build.
    """
    selection, scratch_bytes = (memoryview(b""), 0) if head is None else _build_head(head, target, settings)
    decoder = _build_decoder(graph, capacity, target, settings, on_fraction)
    return replace(
        decoder,
        selection=selection,
        scratch_bytes=decoder.scratch_bytes + scratch_bytes,
        peak_memory_bytes=_peak_bytes(),
    )


def _build_head(head: Path, target: Target, settings: PlanSettings) -> tuple[memoryview, int]:
    """The plan of a selection head for 1 to ``max_slots`` rows, and its scratch memory in bytes."""
    library, trt = target.library, target.library.module
    logger = make_logger(library)
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    parse_head(library, network, logger, head)
    config = builder.create_builder_config()
    _configure(library, config, settings, target)
    cache = _timing_cache(library, config, settings)
    profile = builder.create_optimization_profile()
    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    for tensor in inputs:
        shape, rows = tuple(tensor.shape)[1:], settings.max_slots
        profile.set_shape(tensor.name, (1, *shape), (max(1, rows // 2), *shape), (rows, *shape))
    if config.add_optimization_profile(profile) < 0:
        raise PlanError(f"{library.name} refused the selection head's profile for {settings.max_slots} slots")
    data = _run(library, builder, network, config, lambda _fraction: None)
    if data is None:
        reason = logger.errors[-1] if logger.errors else "no reason given"
        raise PlanError(
            f"{library.name} {library.version} cannot build the selection head for {target.sm}: "
            f"{reason.splitlines()[0]}; choose another target, or another version of the library"
        )
    _keep_timings(cache, settings)
    return memoryview(data), logger.scratch_bytes


def _build_decoder(
    graph: Path, capacity: int, target: Target, settings: PlanSettings, on_fraction: OnFraction
) -> BuiltPlan:
    library, trt = target.library, target.library.module
    started = time.perf_counter()
    logger = make_logger(library)
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    parse_graph(library, network, logger, graph, capacity, form=settings.attention)
    facts = check_network(library, network, settings.attention)
    if facts.cache_shape[1] != capacity:
        raise PlanError(
            f"the graph's cache slots have {facts.cache_shape[1]} rows and no other number; export the package again"
        )
    allow_unfused_attention(library, network)
    check_settings(settings, capacity)
    config = builder.create_builder_config()
    _configure(library, config, settings, target)
    cache = _timing_cache(library, config, settings)
    caches = {past: facts.cache_shape for past, _ in facts.cache_pairs}
    for shapes in profile_shapes(settings.max_slots, settings.prefill_tokens, caches):
        profile = builder.create_optimization_profile()
        for name, (low, best, high) in shapes.items():
            profile.set_shape(name, low, best, high)
        if config.add_optimization_profile(profile) < 0:
            raise PlanError(f"{library.name} refused the profile for {settings.max_slots} slots")
    data = _run(library, builder, network, config, on_fraction)
    if data is None:
        reason = logger.errors[-1] if logger.errors else "no reason given"
        raise PlanError(
            f"{library.name} {library.version} cannot build for {target.sm}: {reason.splitlines()[0]}; "
            f"choose another precision or target{_other_form(settings)}"
        )
    on_fraction(1.0)
    _keep_timings(cache, settings)
    seconds = round(time.perf_counter() - started, 3)
    return BuiltPlan(memoryview(data), logger.scratch_bytes, facts, seconds, _peak_bytes())


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _keep_timings(cache: Any, settings: PlanSettings) -> None:  # noqa: ANN401
    if cache is not None and settings.timing_cache is not None:
        settings.timing_cache.write_bytes(bytes(cache.serialize()))


def _other_form(settings: PlanSettings) -> str:
    return "" if settings.attention == "mask" else ", or build with --attention mask"


def _configure(library: Library, config: Any, settings: PlanSettings, target: Target) -> None:  # noqa: ANN401
    trt = library.module
    config.builder_optimization_level = settings.optimization_level
    if settings.workspace_bytes:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, settings.workspace_bytes)
    if target.ahead:
        config.num_compute_capabilities = 1
        config.set_compute_capability(getattr(trt.ComputeCapability, target.sm.upper()), 0)
    if hasattr(trt.BuilderFlag, "REQUIRE_USER_ALLOCATION"):
        # Else the library may allocate while it runs, beyond the scratch memory that it was given. The classic one,
        # which has no such flag, does not.
        config.set_flag(trt.BuilderFlag.REQUIRE_USER_ALLOCATION)
    if settings.hardware_compatibility != "none":
        if library.builds_ahead:
            raise PlanError("TensorRT for RTX has no hardware compatibility levels; name the targets instead")
        levels = trt.HardwareCompatibilityLevel
        config.hardware_compatibility_level = getattr(levels, settings.hardware_compatibility.upper())


def _timing_cache(library: Library, config: Any, settings: PlanSettings) -> Any:  # noqa: ANN401
    """The classic library's cache of measured kernels, from its file if there is one; None when not asked for."""
    path = settings.timing_cache
    if path is None:
        return None
    if library.builds_ahead:
        # Making one would ask for a GPU, and this library measures no kernels while it builds.
        raise PlanError("TensorRT for RTX has no timing cache; leave --timing-cache out")
    cache = config.create_timing_cache(path.read_bytes() if path.is_file() else b"")
    config.set_timing_cache(cache, ignore_mismatch=False)
    return cache


def _run(library: Library, builder: Any, network: Any, config: Any, on_fraction: OnFraction) -> Any:  # noqa: ANN401
    cancelled, results, failures = threading.Event(), [], []
    config.progress_monitor = make_monitor(library, on_fraction, cancelled)

    def work() -> None:
        try:
            results.append(builder.build_serialized_network(network, config))
        except BaseException as error:  # noqa: BLE001 - handed to the waiting thread, which raises it
            failures.append(error)

    thread = threading.Thread(target=work, name="powertrain-builder")
    thread.start()
    try:
        thread.join()
    except KeyboardInterrupt:
        cancelled.set()
        thread.join()
        raise
    if failures:
        raise failures[0]
    return results[0]
