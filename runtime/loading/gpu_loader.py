"""From a chosen GPU backend to a cache plan and a session. The GPU's counterpart of ``runtime.loading.model_loader``.

CUDA's and TensorRT's libraries are imported by the function that builds the session, on the engine thread, after the
choice was probed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import msgspec

from runtime.defaults import DEFAULT_SLOTS
from runtime.errors import BackendError, PlanError
from runtime.loading.backend import Backend, BackendChoice
from runtime.loading.gpu import Gpu
from runtime.loading.self_test import check_session
from runtime.package import dtypes
from runtime.package.attention_form import DEFAULT_ATTENTION
from runtime.package.graph_profiles import SLOT_STEP, max_prefill_logits
from runtime.package.manifest import ORT_GRAPH, Package
from runtime.package.plan_sidecar import TRT_GRAPH, PlanFile, longer_export, rebuild_command
from runtime.session.gpu.libraries import open_libraries
from runtime.session.gpu.ort.providers import cuda_provider, tensorrt_provider, tensorrt_rtx_provider
from runtime.session.gpu.ort.runner import Provider
from runtime.session.gpu.ort.session import open_ort_session
from runtime.session.gpu.runner import NUM_LANES
from runtime.session.gpu.selection_staging import selection_bytes
from runtime.session.gpu.staging import logits_bytes
from runtime.session.gpu.trt.session import open_trt_session
from runtime.session.kv_budget import KVPlan, KVWishes, SlotForm, kv_bytes_per_token, plan_kv_cache
from runtime.session.session import Session

_PREFILL_TOKENS = 512
"""Prompt tokens per call of ONNX Runtime's GPU providers; those of TensorRT compile for it."""
_KV_SHARE = 0.8
"""Share of the GPU memory that is free beside weights, scratch and logits; the rest is for CUDA, kernels, recorded
steps and other processes."""


def plan_gpu_cache(
    package: Package,
    choice: BackendChoice,
    wishes: KVWishes,
    *,
    kv_cache_bytes: int | None = None,
    kv_cache_share: float | None = None,
) -> KVPlan:
    """The KV cache that fits the GPU. The rows of a plan's slots are fixed; those of ONNX Runtime's providers are not.

    Raises KVBudgetError with the arithmetic, or BackendError for what the plan was not built for.
    """
    graph, plan = package.manifest.graphs[_graph_key(choice.backend)], choice.plan
    longest, form = package.manifest.max_model_len, SlotForm(row_step=SLOT_STEP)
    if plan is not None:
        longest = plan.sidecar.key.max_model_len
        form = replace(form, fixed_rows=plan.sidecar.capacity, shortening=partial(_shorter_plan, plan))
        _check_plan(package, plan, wishes)
    budget, note = kv_cache_bytes, ""
    if budget is None:
        budget, note = _budget(package, choice, wishes, kv_cache_share or _KV_SHARE)
    planned = plan_kv_cache(
        kv_bytes_per_token(package.manifest.shape, dtypes.BY_NAME[graph.kv_dtype].itemsize),
        budget,
        wishes,
        model_len=longest,
        budget_note=note,
        form=form,
    )
    most = planned.num_slots if plan is None else plan.sidecar.key.max_slots
    return replace(planned, num_slots=min(planned.num_slots, most))


def _budget(package: Package, choice: BackendChoice, wishes: KVWishes, share: float) -> tuple[int, str]:
    """Bytes for the KV cache, and where they come from."""
    free, parts = _gpu(choice).free_bytes, fixed_gpu_parts(package, choice, wishes)
    terms = " - ".join(f"{size / 2**30:.2f} {name}" for name, size in parts.items())
    return (
        int(max(0, free - sum(parts.values())) * share),
        f"{share:g} x ({free / 2**30:.2f} GiB free - {terms})",
    )


def fixed_gpu_parts(package: Package, choice: BackendChoice, wishes: KVWishes) -> dict[str, int]:
    """Bytes of GPU memory that a model takes beside its cache, by what they are for."""
    shape, plan = package.manifest.shape, choice.plan
    parts = {"weights": package.manifest.graphs[_graph_key(choice.backend)].weight_bytes}
    slots, max_logits = wishes.num_slots or DEFAULT_SLOTS, max_prefill_logits(_PREFILL_TOKENS)
    if plan is not None:
        slots, max_logits = wishes.num_slots or plan.sidecar.key.max_slots, plan.sidecar.key.max_logits
        parts = {"plan": plan.sidecar.plan_bytes, "scratch": plan.sidecar.scratch_bytes}
    has_head = package.manifest.selection is not None if plan is None else bool(plan.sidecar.selection_bytes)
    runs_ahead = has_head and (plan is not None or choice.backend is Backend.CUDA)
    num_lanes = NUM_LANES if runs_ahead else 1
    parts["logits"] = logits_bytes(slots, max_logits, shape.vocab_size, num_lanes)
    if has_head:
        parts["selection"] = selection_bytes(num_lanes * slots + 1, shape.vocab_size)
    return parts


def _check_plan(package: Package, plan: PlanFile, wishes: KVWishes) -> None:
    """Raise BackendError for more slots, or longer ones, than a plan was built for."""
    key, asked = plan.sidecar.key, wishes.slot_tokens
    if wishes.num_slots is not None and wishes.num_slots > key.max_slots:
        wanted = msgspec.structs.replace(key, max_slots=wishes.num_slots)
        raise BackendError(
            f"num_slots {wishes.num_slots} were asked for, the plan was built for {key.max_slots}; build the plan "
            f"again with '{rebuild_command(package.root, key.target, wanted)}', or ask for {key.max_slots} at most"
        )
    if asked is None or asked <= key.max_model_len:
        return
    wanted = msgspec.structs.replace(key, max_model_len=asked)
    way = f"build the plan again with '{rebuild_command(package.root, key.target, wanted)}'"
    if asked > package.manifest.max_model_len:
        way = longer_export(package, asked)
    raise BackendError(f"the plan's slots have {key.max_model_len} tokens, {asked} were asked for; {way}")


def _shorter_plan(plan: PlanFile, rows: int) -> str:
    """What gives slots of fewer rows where a plan fixes them; part of a KVBudgetError's sentence."""
    key = plan.sidecar.key
    key = msgspec.structs.replace(key, max_model_len=rows, prefill_tokens=min(rows, key.prefill_tokens))
    return f"a plan with slots of {rows} tokens ('{rebuild_command(plan.path.parent.parent, key.target, key)}')"


def gpu_session_factory(
    package: Package, choice: BackendChoice, kv: KVPlan, *, self_test: bool
) -> Callable[[], Session]:
    """A function that builds the session, for the engine thread. ``self_test`` compares it with golden rows first.

    Raises PlanError, as the function is called, for a plan that may not serve without it.
    """

    def build() -> Session:
        if choice.plan is not None and not self_test:
            _check_untested(choice.plan)
        session = _open(package, choice, kv)
        if self_test:
            try:
                check_session(session, package, package.manifest.graphs[_graph_key(choice.backend)].kv_dtype)
            except BaseException:
                session.close()
                raise
        return session

    return build


def _check_untested(plan: PlanFile) -> None:
    """Raise PlanError for a plan without masks: no document says where its diagonal ends, only golden rows tell."""
    if plan.sidecar.key.attention == "lengths":
        root, key = plan.path.parent.parent, plan.sidecar.key
        masked = msgspec.structs.replace(key, attention=DEFAULT_ATTENTION)
        raise PlanError(
            f"plan {plan.path.name} was built with --attention lengths and serves only after the self-test; leave "
            f"--no-self-test out, or build it with masks: '{rebuild_command(root, key.target, masked)}'"
        )


def _open(package: Package, choice: BackendChoice, kv: KVPlan) -> Session:
    open_libraries(choice.backend.module)  # as the probe did, but in this process
    # Here alone: it needs cuda-python, which is missing where there is no GPU.
    from runtime.session.gpu.cuda_device import CudaDevice

    gpu, shape = _gpu(choice), package.manifest.shape
    device = CudaDevice(gpu.uuid)
    if choice.plan is not None:
        return open_trt_session(choice.plan, shape, device, kv)
    prefill_tokens = min(_PREFILL_TOKENS, kv.rows)
    cuda = cuda_provider(device.ordinal, device.stream)
    try:
        provider = (
            cuda
            if choice.backend is Backend.CUDA
            else _compiling_provider(package, choice.backend, kv, prefill_tokens, device.ordinal)
        )
    except BaseException:
        device.close()  # which the session does from here on
        raise
    graph = package.path(package.manifest.graphs[_graph_key(choice.backend)].path)
    head = package.manifest.selection
    # The plug-in compiles for the decoder's profiles alone, and the ONNX Runtime beside it has no other for a GPU.
    head_provider = None if choice.backend is Backend.ORT_TENSORRT_RTX else cuda
    return open_ort_session(
        graph,
        provider,
        device,
        shape,
        kv=kv,
        prefill_tokens=prefill_tokens,
        head=None if head is None else package.path(head.path),
        head_provider=head_provider,
    )


def _compiling_provider(
    package: Package, backend: Backend, kv: KVPlan, prefill_tokens: int, device_id: int
) -> Provider:
    root = package.root
    # What a provider keeps is for slots of one length, which it does not look at.
    cache_folder = root.parent / f".{root.name}.{backend}.{kv.rows}"
    cache_folder.mkdir(exist_ok=True)
    make = tensorrt_provider if backend is Backend.ORT_TENSORRT else tensorrt_rtx_provider
    return make(
        package.manifest.shape,
        kv.rows,
        max_slots=kv.num_slots,
        prefill_tokens=prefill_tokens,
        cache_folder=cache_folder,
        device_id=device_id,
    )


def _graph_key(backend: Backend) -> str:
    return ORT_GRAPH if backend is Backend.CUDA else TRT_GRAPH


def _gpu(choice: BackendChoice) -> Gpu:
    if choice.gpu is None:
        raise BackendError(f"backend {choice.backend} was chosen without a GPU")
    return choice.gpu
