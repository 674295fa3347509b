"""ONNX Runtime's GPU providers and their options: CUDA on the ``ort`` graph, TensorRT's two on the ``trt`` graph.

Owns option names and how a session is made with each, once ``runtime.session.gpu.libraries`` has opened what they need.
Knows nothing of memory, bindings or caches.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnxruntime as ort
from onnxruntime.capi.onnxruntime_pybind11_state import Fail

from runtime.errors import DeviceError
from runtime.package import graph_io
from runtime.package.graph_profiles import profile_shapes
from runtime.package.manifest import ModelShape
from runtime.session.gpu.libraries import plugin_devices
from runtime.session.gpu.ort.runner import Provider

_LOG = logging.getLogger("powertrain.backend")
_CUDA = "CUDAExecutionProvider"


def tensorrt_provider(
    shape: ModelShape, capacity: int, *, max_slots: int, prefill_tokens: int, cache_folder: Path, device_id: int = 0
) -> Provider:
    """ONNX Runtime's TensorRT provider, compiling for the two profiles and keeping plans in ``cache_folder``."""
    options = {
        **profile_options("trt_profile", shape, capacity, max_slots, prefill_tokens),
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": str(cache_folder),
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": str(cache_folder),
        "trt_cuda_graph_enable": "1",
        "device_id": str(device_id),
    }

    def make(graph: Path, session_options: ort.SessionOptions) -> ort.InferenceSession:
        return _session(graph, session_options, "TensorrtExecutionProvider", options)

    return Provider("ort-tensorrt", "cuda", make, graph_id_entry, device_id=device_id)


def tensorrt_rtx_provider(
    shape: ModelShape, capacity: int, *, max_slots: int, prefill_tokens: int, cache_folder: Path, device_id: int = 0
) -> Provider:
    """The TensorRT for RTX provider, a plug-in of ONNX Runtime, keeping compiled kernels in ``cache_folder``."""
    options = {
        **profile_options("nv_profile", shape, capacity, max_slots, prefill_tokens),
        "nv_multi_profile_enable": "1",
        "nv_runtime_cache_path": str(cache_folder),
        "enable_cuda_graph": "1",
    }

    def make(graph: Path, session_options: ort.SessionOptions) -> ort.InferenceSession:
        name, devices = plugin_devices()
        device = plugin_device(devices, device_id)
        if device is None:
            raise DeviceError(f"{name} does not support GPU {device_id} of CUDA; run 'powertrain doctor'")
        session_options.add_provider_for_devices([device], options)
        _LOG.info(
            "backend ort-tensorrt-rtx: CUDA graphs are asked for; the plug-in has no call that tells if it captures"
        )
        return ort.InferenceSession(str(graph), session_options)

    def entries(is_decode: bool, graph_id: int) -> dict[str, str]:
        """Which profile runs, and the CUDA graph's id, which the plug-in names differently (its provider options)."""
        return {
            "nv_profile_index": str(0 if is_decode else 1),
            "cuda_graph_annotation_id": str(graph_id),
        }

    return Provider("ort-tensorrt-rtx", "cuda", make, entries, device_id=device_id, compiles_per_shape=True)


def plugin_device(devices: Sequence[Any], device_id: int) -> Any:  # noqa: ANN401 - onnxruntime has no types
    """The plug-in's device for a GPU of CUDA's, by the ``device_id`` among its options; None if there is none.

    Where the only device does not say which it is, it is taken for the only GPU.
    """
    named = [device for device in devices if device.ep_options.get("device_id") == str(device_id)]
    silent = [device for device in devices if "device_id" not in device.ep_options]
    if not named and len(devices) == len(silent) == 1 and device_id == 0:
        return silent[0]
    return named[0] if named else None


def cuda_provider(device_id: int = 0, stream: int | None = None) -> Provider:
    """ONNX Runtime's CUDA provider on the ``ort`` graph, with one CUDA graph per decode shape if it takes the graph.

    Runs are queued on ``stream``, a handle of CUDA's, and return at once; None is a stream of its own, which each run
    waits for.
    """
    options = {"arena_extend_strategy": "kSameAsRequested", "device_id": str(device_id)}
    if stream is not None:
        options["user_compute_stream"] = str(stream)

    def make(graph: Path, session_options: ort.SessionOptions) -> ort.InferenceSession:
        return _cuda_session(graph, session_options, options)

    def entries(is_decode: bool, graph_id: int) -> dict[str, str]:
        waiting = {} if stream is None else {"disable_synchronize_execution_providers": "1"}
        return {**graph_id_entry(is_decode, graph_id), **waiting}

    is_shared = stream is not None
    return Provider("cuda", "cuda", make, entries, graph_io.SEQLENS_K, device_id, shares_stream=is_shared)


def graph_id_entry(_is_decode: bool, graph_id: int) -> dict[str, str]:
    """The run option of ONNX Runtime's own providers."""
    return {"gpu_graph_id": str(graph_id)}


def _cuda_session(graph: Path, session_options: ort.SessionOptions, options: Mapping[str, str]) -> ort.InferenceSession:
    """Without capture when ONNX Runtime refuses it, which it does if it left a node to the CPU."""
    try:
        return _session(graph, session_options, _CUDA, {**options, "enable_cuda_graph": "1"})
    except Fail as error:
        if "graph capture" not in str(error):
            raise
        _LOG.warning("backend cuda: no CUDA graphs, every decode step launches its kernels one by one: %s", error)
    return _session(graph, session_options, _CUDA, options)


def _session(
    graph: Path, session_options: ort.SessionOptions, provider: str, options: Mapping[str, str]
) -> ort.InferenceSession:
    session = ort.InferenceSession(str(graph), session_options, providers=[(provider, dict(options))])
    if session.get_providers()[0] != provider:
        raise DeviceError(f"ONNX Runtime could not load its {provider}; run 'powertrain doctor'")
    return session


def profile_options(
    prefix: str, shape: ModelShape, capacity: int, max_slots: int, prefill_tokens: int
) -> dict[str, str]:
    """``<prefix>_{min,opt,max}_shapes`` as ``name:1x2,...``, each name once per profile."""
    cache = (shape.num_kv_heads, capacity, shape.head_dim)
    pasts = {past: cache for past, _ in graph_io.cache_names(shape.num_layers)}
    profiles = profile_shapes(max_slots, prefill_tokens, pasts)
    return {
        f"{prefix}_{bound}_shapes": ",".join(
            f"{name}:{'x'.join(map(str, bounds[index]))}" for shapes in profiles for name, bounds in shapes.items()
        )
        for index, bound in enumerate(("min", "opt", "max"))
    }
