"""Runs a selection head with a GPU provider of ONNX Runtime, below ``static_session``: a session beside the decoder's.

Its inputs lie where the decoder's logits and the staging are, in device memory, so nothing is copied between the two.
Knows no decoder and no rules.
"""

from __future__ import annotations

from pathlib import Path

from runtime.errors import DeviceError
from runtime.package import selection_io
from runtime.package.selection_io import DTYPES, input_shapes, output_shapes
from runtime.session.device import Device
from runtime.session.gpu.ort.runner import OrtRun, Provider, run_options, session_options


class OrtSelector:
    """``runtime.session.gpu.runner.Selector`` over a graph in ONNX Runtime. Each run has a CUDA graph id of its own."""

    def __init__(self, graph: Path, provider: Provider, device: Device, vocab_size: int) -> None:
        self._session = provider.make(graph, session_options())
        self._provider, self._device, self._vocab_size = provider, device, vocab_size
        self._num_prepared = 0
        shapes = {node.name: node.shape for node in self._session.get_inputs()}
        names = set(input_shapes(1, vocab_size))
        if set(shapes) != names or shapes[selection_io.LOGITS][1] != vocab_size:
            raise DeviceError("the selection head is not this model's; export the package again")

    def prepare(self, num_rows: int, addresses: dict[str, int]) -> OrtRun:
        """See ``Selector.prepare``."""
        binding, memory, device_id = self._session.io_binding(), self._provider.memory, self._provider.device_id
        for name, shape in input_shapes(num_rows, self._vocab_size).items():
            binding.bind_input(name, memory, device_id, DTYPES[name], shape, addresses[name])
        for name, shape in output_shapes(num_rows).items():
            binding.bind_output(name, memory, device_id, DTYPES[name], shape, addresses[name])
        self._num_prepared += 1
        options = run_options(self._provider, self._num_prepared, is_decode=True)
        return OrtRun(self._session, self._device, binding, options, None, self._provider.shares_stream)

    def close(self) -> None:
        """Drop the graph."""
        del self._session
