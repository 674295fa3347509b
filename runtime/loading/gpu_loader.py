"""From a chosen GPU backend to a cache plan and a session. The GPU's counterpart of ``runtime.loading.model_loader``.

CUDA's and TensorRT's libraries are imported by the function that builds the session, on the engine thread, after the
choice was probed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from runtime.errors import BackendError
from runtime.loading.backend import Backend, BackendChoice
from runtime.loading.gpu import Gpu
from runtime.loading.self_test import check_session
from runtime.package import dtypes
from runtime.package.graph_profiles import fixed_capacity
from runtime.package.manifest import ORT_GRAPH, Package
from runtime.package.plan_sidecar import TRT_GRAPH
from runtime.session.gpu.ort.providers import cuda_provider, tensorrt_provider, tensorrt_rtx_provider
from runtime.session.gpu.ort.runner import Provider
from runtime.session.gpu.ort.session import open_ort_session
from runtime.session.gpu.trt.session import open_trt_session
from runtime.session.kv_budget import KVPlan, KVWishes, kv_bytes_per_token, plan_kv_cache
from runtime.session.session import Session

_PREFILL_TOKENS = 512
"""Prompt tokens per call of ONNX Runtime's GPU providers; those of TensorRT compile for it."""
_KV_SHARE = 0.8
"""Share of the GPU memory that is free after the weights; the rest is for activations and other processes."""


def plan_gpu_cache(
    package: Package,
    choice: BackendChoice,
    wishes: KVWishes,
    *,
    kv_cache_bytes: int | None = None,
    kv_cache_share: float | None = None,
) -> KVPlan:
    """The KV cache that fits the GPU. A plan's slot length is fixed; CUDA's can be chosen.

    Raises KVBudgetError, or BackendError for what the plan was not built for.
    """
    length = package.manifest.max_model_len
    graph = package.manifest.graphs[_graph_key(choice.backend)]
    weight_bytes = graph.weight_bytes
    if choice.plan is not None:
        weight_bytes = choice.plan.sidecar.plan_bytes
        _check_slots(wishes.num_slots, choice.plan.sidecar.key.max_slots)
    if choice.backend is not Backend.CUDA:
        length = fixed_capacity(package.manifest.max_model_len)
        if wishes.slot_tokens not in {None, length}:
            raise BackendError(
                f"the plan's slots have {length} tokens, {wishes.slot_tokens} were asked for; "
                f"export with --max-model-len {wishes.slot_tokens} and build the plan again"
            )
        wishes = replace(wishes, slot_tokens=length)
    budget = kv_cache_bytes
    if budget is None:
        budget = int(max(0, _gpu(choice).free_bytes - weight_bytes) * (kv_cache_share or _KV_SHARE))
    per_token = kv_bytes_per_token(package.manifest.shape, dtypes.BY_NAME[graph.kv_dtype].itemsize)
    planned = plan_kv_cache(per_token, budget, wishes, model_len=length)
    most = planned.num_slots if choice.plan is None else choice.plan.sidecar.key.max_slots
    return replace(planned, num_slots=min(planned.num_slots, most))


def _check_slots(num_slots: int | None, most: int) -> None:
    """Raise BackendError for more slots than a plan was built for."""
    if num_slots is not None and num_slots > most:
        raise BackendError(
            f"num_slots {num_slots} were asked for, the plan was built for {most}; build the plan again with "
            f"--max-slots {num_slots}, or ask for {most} at most"
        )


def gpu_session_factory(
    package: Package, choice: BackendChoice, kv: KVPlan, *, self_test: bool
) -> Callable[[], Session]:
    """A function that builds the session, for the engine thread. ``self_test`` compares it with golden rows first."""

    def build() -> Session:
        session = _open(package, choice, kv)
        if self_test:
            try:
                check_session(session, package, package.manifest.graphs[_graph_key(choice.backend)].kv_dtype)
            except BaseException:
                session.close()
                raise
        return session

    return build


def _open(package: Package, choice: BackendChoice, kv: KVPlan) -> Session:
    # Here alone: it needs cuda-python, which is missing where there is no GPU.
    from runtime.session.gpu.cuda_device import CudaDevice

    gpu, shape = _gpu(choice), package.manifest.shape
    if choice.plan is not None:
        return open_trt_session(choice.plan, shape, CudaDevice(gpu.index), kv.num_slots)
    prefill_tokens = min(_PREFILL_TOKENS, kv.slot_tokens)
    return open_ort_session(
        package.path(package.manifest.graphs[_graph_key(choice.backend)].path),
        _provider(package, choice.backend, kv, prefill_tokens),
        CudaDevice(gpu.index),
        shape,
        num_slots=kv.num_slots,
        prefill_tokens=prefill_tokens,
        capacity=kv.slot_tokens,
    )


def _provider(package: Package, backend: Backend, kv: KVPlan, prefill_tokens: int) -> Provider:
    if backend is Backend.CUDA:
        return cuda_provider()
    root = package.root
    cache_folder = root.parent / f".{root.name}.{backend}"
    cache_folder.mkdir(exist_ok=True)
    make = tensorrt_provider if backend is Backend.ORT_TENSORRT else tensorrt_rtx_provider
    return make(
        package.manifest.shape,
        kv.slot_tokens,
        max_slots=kv.num_slots,
        prefill_tokens=prefill_tokens,
        cache_folder=cache_folder,
    )


def _graph_key(backend: Backend) -> str:
    return ORT_GRAPH if backend is Backend.CUDA else TRT_GRAPH


def _gpu(choice: BackendChoice) -> Gpu:
    if choice.gpu is None:
        raise BackendError(f"backend {choice.backend} was chosen without a GPU")
    return choice.gpu
