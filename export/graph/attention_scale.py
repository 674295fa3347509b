"""Folds the scale of q.k into whatever makes the queries, so that attention multiplies by 1.

ONNX Runtime's CPU kernel has fast matrix-vector products for a factor of exactly 1. Head sizes that are powers of 4
fold without rounding. Knows canonical names and no graph.
"""

from __future__ import annotations

from dataclasses import replace

from export.checkpoint.checkpoint import Checkpoint, TextFiles
from export.checkpoint.lazy_tensor import LazyTensor
from export.checkpoint.quantized_tensor import QuantizedTensor
from export.checkpoint.spec import DecoderSpec


def with_unit_attention_scale(checkpoint: Checkpoint) -> Checkpoint:
    """The same function with ``attention_scale`` 1; as it is where the queries' codes are to be kept."""
    return checkpoint if _keeps_codes(checkpoint) else _UnitScale(checkpoint)


def query_scale(checkpoint: Checkpoint) -> float:
    """What ``with_unit_attention_scale`` multiplies the matrices of queries by."""
    spec = checkpoint.spec
    return spec.softmax_scale if spec.qk_norm == "none" and not _keeps_codes(checkpoint) else 1.0


def _keeps_codes(checkpoint: Checkpoint) -> bool:
    return checkpoint.spec.qk_norm == "none" and isinstance(checkpoint.tensor("layers.0.q"), QuantizedTensor)


class _UnitScale:
    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        self._scale = checkpoint.spec.softmax_scale
        # A norm of queries undoes what comes before it. Rotation passes factors on.
        self._roles = {"q", "q_bias"} if checkpoint.spec.qk_norm == "none" else {"q_norm"}
        self.spec: DecoderSpec = replace(checkpoint.spec, attention_scale=1.0)

    def tensor(self, name: str) -> LazyTensor:
        tensor, scale = self._checkpoint.tensor(name), self._scale
        return tensor.map(lambda band: band * scale) if name.rpartition(".")[2] in self._roles else tensor

    def text_files(self) -> TextFiles:
        return self._checkpoint.text_files()
