"""ONNX Runtime's GPU providers under a session: CUDA on the ``ort`` graph, TensorRT's two on the ``trt`` graph.

The cache is one arena in device memory, bound by address. ONNX Runtime keeps its own stream and waits for it at the
end of every run, so work is put in order by waiting, not by sharing a stream: that holds for every provider and
version. Knows no TensorRT and no CUDA.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from runtime import graph_io
from runtime.device import Device, DeviceError
from runtime.device_arena import DeviceArena
from runtime.graph_profiles import max_prefill_logits, profile_shapes
from runtime.manifest import ModelShape
from runtime.static_session import Call, Limits

_LOG_ERRORS_ONLY = 3
_BFLOAT16 = 16  # onnx.TensorProto.BFLOAT16; NumPy has no such type
_ELEMENT_TYPES: dict[str, tuple[Any, int]] = {
    "tensor(float16)": (np.float16, 2),
    "tensor(bfloat16)": (_BFLOAT16, 2),
    "tensor(float)": (np.float32, 4),
}

SessionMaker = Callable[[Path, ort.SessionOptions], ort.InferenceSession]


@dataclass(frozen=True, slots=True)
class Provider:
    """``make`` builds a session that runs on the provider alone; ``memory`` is where the cache lies.

    ``run_entries`` gives a call's run options, from the call and a number that decode calls of one shape share.
    """

    backend: str
    memory: str
    make: SessionMaker
    run_entries: Callable[[Call, int], dict[str, str]] = lambda _call, _number: {}


class OrtRunner:
    """``runtime.static_session.Runner`` over a ``trt`` graph in ONNX Runtime. Bindings of decode calls are kept."""

    def __init__(
        self, graph: Path, provider: Provider, device: Device, shape: ModelShape, *, max_slots: int, prefill_tokens: int
    ) -> None:
        options = ort.SessionOptions()
        options.log_severity_level = _LOG_ERRORS_ONLY
        self._session = provider.make(graph, options)
        self._run_entries = provider.run_entries
        self._memory, self._device, self._shape = provider.memory, device, shape
        inputs = {node.name: node for node in self._session.get_inputs()}
        past = inputs.get(graph_io.past_name(0, "key"))
        if past is None or graph_io.WRITE_INDICES not in inputs or past.type not in _ELEMENT_TYPES:
            raise DeviceError("the graph is not one for TensorRT; export it with --dialect ort,trt")
        self._element_type, itemsize = _ELEMENT_TYPES[past.type]
        self._limits = Limits(
            num_slots=max_slots,
            capacity=past.shape[2],
            prefill_tokens=prefill_tokens,
            max_logits=max_prefill_logits(prefill_tokens),
            kv_itemsize=itemsize,
        )
        self._decode: dict[tuple[int, int], tuple[ort.IOBinding, ort.RunOptions]] = {}

    @property
    def limits(self) -> Limits:
        """From the graph and the profiles that it is compiled for."""
        return self._limits

    def may_record(self, call: Call) -> bool:
        """Never: ONNX Runtime's work is on a stream of its own."""
        del call
        return False

    def enqueue(self, call: Call, arena: DeviceArena) -> None:
        """See ``Runner.enqueue``. Returns when the run is over."""
        binding, options = self._prepared(call, arena)
        self._device.synchronize()
        self._session.run_with_iobinding(binding, options)

    def close(self) -> None:
        """Drop the bindings before the memory they point to."""
        self._decode.clear()

    def _prepared(self, call: Call, arena: DeviceArena) -> tuple[ort.IOBinding, ort.RunOptions]:
        key = (call.first_slot, call.num_rows)
        if call.is_decode and key in self._decode:
            return self._decode[key]
        options = ort.RunOptions()
        for name, value in self._run_entries(call, len(self._decode)).items():
            options.add_run_config_entry(name, value)
        prepared = (self._bound(call, arena), options)
        if call.is_decode:
            self._decode[key] = prepared
        return prepared

    def _bound(self, call: Call, arena: DeviceArena) -> ort.IOBinding:
        binding = self._session.io_binding()
        small = {
            graph_io.INPUT_IDS: (call.num_rows, call.num_tokens),
            graph_io.WRITE_INDICES: (call.num_rows,),
            graph_io.LOGITS_INDICES: (call.num_logits,),
        }
        for name, shape in small.items():
            binding.bind_input(name, self._memory, 0, np.int64, shape, call.addresses[name])
        logits = (call.num_logits, self._shape.vocab_size)
        binding.bind_output(graph_io.LOGITS, self._memory, 0, np.float32, logits, call.addresses[graph_io.LOGITS])
        cache = (call.num_rows, self._shape.num_kv_heads, self._limits.capacity, self._shape.head_dim)
        for layer in range(self._shape.num_layers):
            for offset, kind in enumerate(("key", "value")):
                address = arena.address(2 * layer + offset, call.first_slot)
                past, present = graph_io.past_name(layer, kind), graph_io.present_name(layer, kind)
                binding.bind_input(past, self._memory, 0, self._element_type, cache, address)
                binding.bind_output(present, self._memory, 0, self._element_type, cache, address)
        return binding


def tensorrt_provider(
    shape: ModelShape, capacity: int, *, max_slots: int, prefill_tokens: int, cache_folder: Path
) -> Provider:
    """ONNX Runtime's TensorRT provider, compiling for the two profiles and keeping engines in ``cache_folder``."""
    options = {
        **profile_options("trt_profile", shape, capacity, max_slots, prefill_tokens),
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": str(cache_folder),
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": str(cache_folder),
        "trt_cuda_graph_enable": "1",
    }

    def make(graph: Path, session_options: ort.SessionOptions) -> ort.InferenceSession:
        return _session(graph, session_options, "TensorrtExecutionProvider", options)

    def entries(call: Call, number: int) -> dict[str, str]:
        """One CUDA graph per decode shape; -1 keeps prefill, whose shapes vary, out of any."""
        return {"gpu_graph_id": str(number + 1 if call.is_decode else -1)}

    return Provider("ort-tensorrt", "cuda", make, entries)


def tensorrt_rtx_provider(
    shape: ModelShape, capacity: int, *, max_slots: int, prefill_tokens: int, cache_folder: Path
) -> Provider:
    """The TensorRT for RTX provider, a plug-in of ONNX Runtime, keeping compiled kernels in ``cache_folder``."""
    options = {
        **profile_options("nv_profile", shape, capacity, max_slots, prefill_tokens),
        "nv_multi_profile_enable": "1",
        "nv_runtime_cache_path": str(cache_folder),
    }

    def make(graph: Path, session_options: ort.SessionOptions) -> ort.InferenceSession:
        plugin: Any = importlib.import_module("onnxruntime_ep_nv_tensorrt_rtx")
        name = plugin.get_ep_name()
        if not any(device.ep_name == name for device in ort.get_ep_devices()):
            ort.register_execution_provider_library(name, plugin.get_library_path())
        devices = [device for device in ort.get_ep_devices() if device.ep_name == name]
        if not devices:
            raise DeviceError(f"{name} finds no GPU that it supports; run 'powertrain doctor'")
        session_options.add_provider_for_devices(devices[:1], options)
        return ort.InferenceSession(str(graph), session_options)

    def entries(call: Call, number: int) -> dict[str, str]:
        """Which profile runs; its CUDA graphs need fixed shapes in every call, so they stay off."""
        del number
        return {"nv_profile_index": str(0 if call.is_decode else 1)}

    return Provider("ort-tensorrt-rtx", "cuda", make, entries)


def cuda_session(graph: Path, session_options: ort.SessionOptions) -> ort.InferenceSession:
    """A session on the CUDA provider. Raises DeviceError when ONNX Runtime fell back to the CPU."""
    return _session(graph, session_options, "CUDAExecutionProvider", {"arena_extend_strategy": "kSameAsRequested"})


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
    layers, kinds = range(shape.num_layers), ("key", "value")
    pasts = {graph_io.past_name(layer, kind): cache for layer in layers for kind in kinds}
    profiles = profile_shapes(max_slots, prefill_tokens, pasts)
    return {
        f"{prefix}_{bound}_shapes": ",".join(
            f"{name}:{'x'.join(map(str, bounds[index]))}" for shapes in profiles for name, bounds in shapes.items()
        )
        for index, bound in enumerate(("min", "opt", "max"))
    }


class CudaArena:
    """The cache of an ``ort`` graph in device memory, with the interface of ``runtime.kv_arena.KVArena``."""

    def __init__(self, device: Device, shape: ModelShape, num_slots: int, capacity: int, kv_dtype: str) -> None:
        self.shape, self.capacity = shape, capacity
        self.dtype: Any = _BFLOAT16 if kv_dtype == "bfloat16" else np.dtype(kv_dtype)
        itemsize = 2 if kv_dtype == "bfloat16" else np.dtype(kv_dtype).itemsize
        self._device = device
        self._arena = DeviceArena(device, shape, num_slots, capacity, itemsize)

    def address(self, block: int, slot: int) -> int:
        """See ``KVArena.address``."""
        return self._arena.address(block, slot)

    def copy_slot(self, source: int, target: int, num_tokens: int) -> None:
        """See ``KVArena.copy_slot``; over when it returns."""
        self._arena.copy_slot(source, target, num_tokens)
        self._device.synchronize()

    def swap_slots(self, first: int, second: int, num_tokens: int) -> None:
        """See ``KVArena.swap_slots``; over when it returns."""
        self._arena.swap_slots(first, second, num_tokens)
        self._device.synchronize()
