"""Runs a graph with a GPU provider of ONNX Runtime, below ``static_session``: bindings and CUDA graph ids.

Every input that a kernel reads lies in device memory at an address that never changes, because

* ``IOBinding`` copies an input that lies elsewhere *when it is bound*: what is written to it later is never seen
  (``IOBinding::BindInput`` in onnxruntime/core/session/IOBinding.cc);
* a captured CUDA graph reads and writes the addresses that it was captured with.

The one exception is ``total_sequence_length``, which GroupQueryAttention reads on the host. The CUDA provider queues
its work on the device's own stream and returns, if it is asked to (replays of CUDA graphs too from ONNX Runtime 1.28
on). The others keep a stream of their own, and their replays wait for it whatever they are asked
(microsoft/onnxruntime pull request 28686), so there work is put in order by waiting. Knows no TensorRT and no CUDA; the
providers are in ``providers``, beside this.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from runtime.errors import DeviceError
from runtime.package import dtypes, graph_io
from runtime.package.graph_profiles import max_prefill_logits, prefill_buckets
from runtime.package.manifest import ModelShape
from runtime.session.device import Device
from runtime.session.gpu.device_arena import DeviceArena
from runtime.session.gpu.runner import NUM_LANES, POSITION_DTYPES, Call, Limits
from runtime.session.ort_run import run_bound

_LOG_ERRORS_ONLY = 3
_CACHE_TYPES = {kind.ort_name: kind for kind in dtypes.FLOATS}

SessionMaker = Callable[[Path, ort.SessionOptions], ort.InferenceSession]


@dataclass(frozen=True, slots=True)
class Provider:
    """``make`` builds a session that runs on the provider alone; ``memory`` is where cache and inputs lie, on CUDA's
    GPU ``device_id``.

    ``position_input`` tells the dialect of its graphs. ``run_entries`` gives a call's run options, from whether it
    decodes and the CUDA graph's id: one number from 1 on per size and lane of decode calls, SKIP_CAPTURE for prefill,
    whose shapes vary. ``compiles_per_shape``: every new shape costs a compilation, so prefill is padded to a few.
    ``shares_stream``: runs are queued on the device's stream and return at once.
    """

    backend: str
    memory: str
    make: SessionMaker
    run_entries: Callable[[bool, int], dict[str, str]]
    position_input: str = graph_io.WRITE_INDICES
    device_id: int = 0
    compiles_per_shape: bool = False
    shares_stream: bool = False


SKIP_CAPTURE = -1
"""The CUDA graph id that ONNX Runtime's providers neither capture nor replay for."""


@dataclass(frozen=True, slots=True)
class OrtRun:
    """A binding and its run options. ``total`` is the host memory that the binding points to, if to any.

    ``is_queued``: the run goes behind what the device's stream holds.
    """

    session: ort.InferenceSession
    device: Device
    binding: ort.IOBinding
    options: ort.RunOptions
    total: NDArray[np.int32] | None
    is_queued: bool = False

    @property
    def may_be_recorded(self) -> bool:
        """Never: ONNX Runtime captures its work itself."""
        return False

    def enqueue(self) -> None:
        """See ``Run.enqueue``. Returns when the run is over, unless it is queued."""
        if not self.is_queued:
            self.device.synchronize()
        run_bound(self.session, self.binding, self.options)

    def close(self) -> None:
        """See ``Run.close``: nothing, since ONNX Runtime keeps a captured graph as long as its session."""


def run_options(provider: Provider, graph_id: int, *, is_decode: bool) -> ort.RunOptions:
    """The options of a run of one CUDA graph."""
    options = ort.RunOptions()
    for name, value in provider.run_entries(is_decode, graph_id).items():
        options.add_run_config_entry(name, value)
    return options


def session_options() -> ort.SessionOptions:
    """What every session of a GPU provider is opened with."""
    options = ort.SessionOptions()
    options.log_severity_level = _LOG_ERRORS_ONLY
    return options


class OrtRunner:
    """``runtime.session.gpu.runner.Runner`` over a graph in ONNX Runtime.

    The first run of a CUDA graph id is run once as it is, then captured, then replayed, all inside that one call of
    ONNX Runtime (``InferenceSession::RunImpl``): it writes the same cache rows again, which changes nothing.
    """

    def __init__(
        self,
        graph: Path,
        provider: Provider,
        device: Device,
        shape: ModelShape,
        *,
        max_slots: int,
        prefill_tokens: int,
        capacity: int,
    ) -> None:
        options = session_options()
        options.add_free_dimension_override_by_name(graph_io.CAPACITY, capacity)
        self._session = provider.make(graph, options)
        self._provider, self._device, self._shape = provider, device, shape
        inputs = {node.name: node for node in self._session.get_inputs()}
        (first_past, _), *_ = graph_io.cache_names(shape.num_layers)
        past = inputs.get(first_past)
        if past is None or provider.position_input not in inputs or past.type not in _CACHE_TYPES:
            raise DeviceError(f"the graph is not one for {provider.backend}; export it with --dialect ort,trt")
        if past.shape[2] != capacity and isinstance(past.shape[2], int):
            raise DeviceError(f"the graph's cache slots have {past.shape[2]} tokens, {capacity} were asked for")
        self._cache_type = _CACHE_TYPES[past.type]
        self._limits = Limits(
            num_slots=max_slots,
            capacity=capacity,
            prefill_tokens=prefill_tokens,
            max_logits=max_prefill_logits(prefill_tokens),
            kv_itemsize=self._cache_type.itemsize,
            position_input=provider.position_input,
            num_lanes=NUM_LANES if provider.shares_stream else 1,
        )
        if provider.compiles_per_shape:
            tokens, logits = prefill_buckets(prefill_tokens), (1, self._limits.max_logits)
            self._limits = replace(self._limits, prefill_buckets=tokens, logits_buckets=logits)
        self._graph_ids: dict[tuple[int, int], int] = {}

    @property
    def limits(self) -> Limits:
        """From the graph and the profiles that it is compiled for."""
        return self._limits

    def prepare(self, call: Call, arena: DeviceArena) -> OrtRun:
        """See ``Runner.prepare``. Each size of decode calls has a CUDA graph id of its own in each lane."""
        graph_id = SKIP_CAPTURE
        if call.is_decode:
            key = call.num_rows, call.addresses[graph_io.LOGITS]
            graph_id = self._graph_ids.setdefault(key, len(self._graph_ids) + 1)
        options = run_options(self._provider, graph_id, is_decode=call.is_decode)
        # Read on the host when kernels are launched, so a captured decode step keeps the value it was captured with,
        # which must hold for every step. Rows still end where seqlens_k, on the device, says. In a prefill it tells
        # the first chunk (equal to T) from later ones.
        total = np.array(call.total_tokens, np.int32)
        bound, is_queued = self._bound(call, arena, total), self._provider.shares_stream
        return OrtRun(self._session, self._device, bound, options, total, is_queued)

    def close(self) -> None:
        """Drop the graph."""
        del self._session

    def _bound(self, call: Call, arena: DeviceArena, total: NDArray[np.int32]) -> ort.IOBinding:
        binding, position = self._session.io_binding(), self._limits.position_input
        memory, device_id = self._provider.memory, self._provider.device_id
        small: dict[str, tuple[np.dtype[Any], tuple[int, ...]]] = {
            graph_io.INPUT_IDS: (np.dtype(np.int64), (call.num_rows, call.num_tokens)),
            position: (POSITION_DTYPES[position], (call.num_rows,)),
            graph_io.LOGITS_INDICES: (np.dtype(np.int64), (call.num_logits,)),
        }
        for name, (dtype, shape) in small.items():
            binding.bind_input(name, memory, device_id, dtype, shape, call.addresses[name])
        if position == graph_io.SEQLENS_K:
            binding.bind_input(graph_io.TOTAL_SEQUENCE_LENGTH, "cpu", 0, np.int32, (), total.ctypes.data)
        logits = (call.num_logits, self._shape.vocab_size)
        address = call.addresses[graph_io.LOGITS]
        binding.bind_output(graph_io.LOGITS, memory, device_id, np.float32, logits, address)
        self._bind_cache(binding, call, arena)
        return binding

    def _bind_cache(self, binding: ort.IOBinding, call: Call, arena: DeviceArena) -> None:
        memory, device_id = self._provider.memory, self._provider.device_id
        cache = (call.num_rows, self._shape.num_kv_heads, self._limits.capacity, self._shape.head_dim)
        for block, (past, present) in enumerate(graph_io.cache_names(self._shape.num_layers)):
            address = arena.address(block, call.first_slot)
            binding.bind_input(past, memory, device_id, self._cache_type.onnx_number, cache, address)
            binding.bind_output(present, memory, device_id, self._cache_type.onnx_number, cache, address)
