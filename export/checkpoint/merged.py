"""A checkpoint with an adapter's changes added to its weights, band by band: W + B A, in float32.

Knows no file and no graph.
"""

from __future__ import annotations

from runtime.adapters.low_rank import LowRank, PeftAdapter
from runtime.errors import AdapterError
from runtime.package.adapter_room import ROLES

from export.checkpoint.checkpoint import Checkpoint, TextFiles
from export.checkpoint.lazy_tensor import F32, LazyTensor
from export.checkpoint.quantized_tensor import QuantizedTensor
from export.checkpoint.spec import DecoderSpec, weight_shapes
from export.errors import UnsupportedError


class MergedCheckpoint:
    """``checkpoint`` as ``adapter`` changes it. Raises AdapterError where the adapter is for another model,
    UnsupportedError where a matrix is stored quantized."""

    def __init__(self, checkpoint: Checkpoint, adapter: PeftAdapter) -> None:
        self._checkpoint = checkpoint
        spec, shapes = checkpoint.spec, weight_shapes(checkpoint.spec)
        outputs = {role: shapes[f"layers.0.{role}"][0] for role in ROLES}
        changes = adapter.by_role(outputs, spec.num_layers)
        self._changes = {f"layers.{layer}.{role}": change for (layer, role), change in changes.items()}
        for name, change in self._changes.items():
            if isinstance(checkpoint.tensor(name), QuantizedTensor):
                raise UnsupportedError(
                    f"{name}: its codes are quantized already, so nothing can be added to them; merge the adapter "
                    "into the original fp32, fp16 or bf16 checkpoint, or a GGUF file"
                )
            if change.a.shape[1] != shapes[name][1]:
                raise AdapterError(
                    f"{adapter.name}: {name} reads {change.a.shape[1]} inputs, the model's {shapes[name][1]}; it was "
                    "trained for another model"
                )

    @property
    def spec(self) -> DecoderSpec:
        """Unchanged."""
        return self._checkpoint.spec

    def tensor(self, name: str) -> LazyTensor:
        """See ``Checkpoint.tensor``."""
        tensor, change = self._checkpoint.tensor(name), self._changes.get(name)
        return tensor if change is None else _changed(tensor, change)

    def text_files(self) -> TextFiles:
        """Unchanged."""
        return self._checkpoint.text_files()


def _changed(tensor: LazyTensor, change: LowRank) -> LazyTensor:
    read = tensor.read

    def added(start: int, stop: int) -> F32:
        band: F32 = read(start, stop) + change.b[start:stop] @ change.a
        return band

    return LazyTensor(tensor.name, tensor.shape, added)
