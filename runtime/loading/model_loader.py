"""From a verified package and the operator's wishes to a session: sizes the KV cache, chooses threads.

Knows packages and machines; knows no requests. The session itself is built later, on the engine thread.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from msgspec import UnsetType

from runtime.adapters.fitted import made_up_adapter
from runtime.errors import PackageError
from runtime.loading.backend import ON_CPU, BackendChoice
from runtime.loading.gpu_loader import gpu_session_factory, plan_gpu_cache
from runtime.package import dtypes
from runtime.package.adapter_room import AdapterRoom
from runtime.package.manifest import OPTIMUM_GRAPH, ORT_GRAPH, GraphInfo, Package
from runtime.package.plan_sidecar import sidecar_path
from runtime.session.cpu.growing_cache_session import GrowingCacheSession
from runtime.session.cpu.ort_session import OrtOptions, OrtSession
from runtime.session.cpu.threaded_session import ThreadedSession
from runtime.session.kv_budget import KVPlan, KVWishes, available_memory_bytes, kv_bytes_per_token, plan_kv_cache
from runtime.session.session import Session

DEFAULT_KV_SHARE = 0.4
"""Share of the memory available at start that the KV cache may come to use: the rest is weights, Python, others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelOptions:
    """What the operator may choose. None takes the value derived from the machine or the package.

    ``kv_cache_share`` is the share of the memory available at start for the KV cache, when its bytes are not given: of
    the machine's, or of the GPU's.
    ``decode_thread`` has a CPU's decode calls run one step ahead, on a thread of their own.
    ``backend`` is one of ``runtime.loading.backend.backend_choices``; ``self_test`` compares a GPU's logits with
    the package's golden rows before anyone is served.
    """

    num_slots: int | None = None
    max_model_len: int | None = None
    kv_cache_bytes: int | None = None
    kv_cache_share: float | None = None
    threads: int | None = None
    decode_thread: bool = False
    backend: BackendChoice = ON_CPU
    self_test: bool = True

    @property
    def kv_wishes(self) -> KVWishes:
        """What is asked of the KV cache, whatever runs the model."""
        return KVWishes(
            num_slots=self.num_slots,
            slot_tokens=self.max_model_len,
            budget_is_asked=self.kv_cache_bytes is not None or self.kv_cache_share is not None,
        )


def plan_model(package: Package, options: ModelOptions) -> KVPlan:
    """The KV cache that the package gets on this machine. Raises KVBudgetError with the arithmetic."""
    if options.backend.gpu is not None:
        return plan_gpu_cache(
            package,
            options.backend,
            options.kv_wishes,
            kv_cache_bytes=options.kv_cache_bytes,
            kv_cache_share=options.kv_cache_share,
        )
    graph = _ort_graph(package)
    manifest = package.manifest
    budget = options.kv_cache_bytes
    if budget is None:
        budget = int(
            max(0, available_memory_bytes() - graph.weight_bytes) * (options.kv_cache_share or DEFAULT_KV_SHARE)
        )
    return plan_kv_cache(
        kv_bytes_per_token(manifest.shape, dtypes.BY_NAME[graph.kv_dtype].itemsize),
        budget,
        options.kv_wishes,
        model_len=manifest.max_model_len,
    )


def session_factory(package: Package, kv: KVPlan, options: ModelOptions) -> Callable[[], Session]:
    """A function that builds the session; call it on the engine thread, it takes as long as loading takes.

    It raises PackageError where files of the package changed after they were verified: libraries open them by path.
    """
    gpu, plan = options.backend.gpu, options.backend.plan
    if gpu is None:
        make = _cpu_factory(package, kv, options)
    else:
        make = gpu_session_factory(package, options.backend, kv, self_test=options.self_test)

    def build() -> Session:
        session = make()
        try:
            package.check_unchanged([] if plan is None else [plan.path, sidecar_path(plan.path)])
        except PackageError:
            session.close()
            raise
        return session

    return build


def _cpu_factory(package: Package, kv: KVPlan, options: ModelOptions) -> Callable[[], Session]:
    graph, shape = _ort_graph(package), package.manifest.shape
    chosen = OrtOptions(intra_op_threads=options.threads or default_threads())

    def opened() -> Session:
        path = package.path(graph.path)
        if package.manifest.graphs.get(OPTIMUM_GRAPH) is graph:
            return GrowingCacheSession(path, shape, kv, chosen)
        room = adapter_room(package)
        probe = None if room is None else made_up_adapter(room, seed=0)
        return OrtSession(path, shape, kv, chosen, graph.kv_dtype, room=room, probe=probe)

    def build() -> Session:
        session = opened()
        return ThreadedSession(session) if options.decode_thread else session

    return build


def cpu_weight_bytes(package: Package) -> int:
    """Bytes of the weights that the CPU would run. Raises PackageError when it can run none of the package's graphs."""
    return _ort_graph(package).weight_bytes


def adapter_room(package: Package) -> AdapterRoom | None:
    """What the package's graph takes of adapters at run time; None for nothing."""
    room = package.manifest.adapters
    return None if isinstance(room, UnsetType) else room


def default_threads(smt: Path = Path("/sys/devices/system/cpu/smt/active")) -> int:
    """Physical cores that this process may use: matrix products gain nothing from a core's second thread."""
    cores = len(os.sched_getaffinity(0))
    has_smt = smt.is_file() and smt.read_text(encoding="ascii").strip() == "1"
    return max(1, cores // 2 if has_smt else cores)


def _ort_graph(package: Package) -> GraphInfo:
    graph = package.manifest.graphs.get(ORT_GRAPH) or package.manifest.graphs.get(OPTIMUM_GRAPH)
    if graph is None:
        raise PackageError(
            f"package {package.manifest.name!r} holds no graph for ONNX Runtime, so the CPU cannot run it; serve it on "
            "a GPU with a plan from 'powertrain engine', or export with --precision int8 --dialect ort,trt"
        )
    if "cpu" not in graph.providers:
        raise PackageError(
            f"package {package.manifest.name!r} is in {graph.kv_dtype}, which the CPU cannot run; serve it on a GPU, "
            "or export with --precision int8, fp16 or fp32"
        )
    return graph
