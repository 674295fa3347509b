"""StoredCheckpoint: the weights that a graph for GPUs holds, as float32 numbers again.

What a GPU computes differs from the checkpoint by the weights' stored form and by rounding on the way. This undoes
neither: it hands out the stored weights, so that a float32 graph of them differs by rounding alone. Knows how the
``trt`` dialect stores a weight, and that ONNX Runtime's graphs in half precision store theirs alike.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from runtime.package import dtypes

from export.checkpoint.checkpoint import Checkpoint, TextFiles
from export.checkpoint.lazy_tensor import F32, LazyTensor
from export.checkpoint.precision import PRECISE, PrecisionPlan, WeightFormat, names_planned_with, planned_name
from export.checkpoint.quantized_tensor import QuantizedTensor
from export.checkpoint.spec import DecoderSpec
from export.errors import UnsupportedError
from export.graph.trt.weights import largest_magnitude, stored_values

_BLOCK_OUTPUTS = {"o", "o_bias", "down", "down_bias"}


class StoredCheckpoint:
    """``checkpoint`` as ``plan``, the GPU graph's, stores it. A head is never tied: its form may not be the table's."""

    def __init__(self, checkpoint: Checkpoint, plan: PrecisionPlan) -> None:
        self._checkpoint, self._plan = checkpoint, plan
        self._dtype = dtypes.BY_NAME[plan.float_type].numpy
        self._found: dict[tuple[str, ...], float] = {}
        multiplier = float(np.asarray(checkpoint.spec.embedding_multiplier, self._dtype))
        self.spec: DecoderSpec = replace(checkpoint.spec, tied_head=False, embedding_multiplier=multiplier)

    def tensor(self, name: str) -> LazyTensor:
        """See ``Checkpoint.tensor``. What a graph multiplies a weight by first is undone after it was rounded.

        Reading the tensor raises UnsupportedError where the graph's type ends before the weights do.
        """
        source = "embedding" if name == "head" and self._checkpoint.spec.tied_head else name
        tensor, factor = self._checkpoint.tensor(source), np.float32(self._folded(name))
        is_matrix = len(tensor.shape) == 2 and name != "embedding"  # a table is never quantized
        chosen = self._plan.format_of(planned_name(source), tensor.shape[1]) if is_matrix else PRECISE
        if isinstance(tensor, QuantizedTensor) and tensor.format == chosen:
            return tensor
        largest = self._largest(source, factor) if chosen.has_float_codes and chosen.block else 0.0
        return tensor.map(lambda band: self._rounded(name, band * factor, chosen, largest) / factor)

    def _largest(self, name: str, factor: np.float32) -> float:
        """Of the whole matrix that the tensor is a part of, which has one scale. Read once."""
        parts = names_planned_with(name)
        if parts not in self._found:
            self._found[parts] = float(np.float32(largest_magnitude(map(self._checkpoint.tensor, parts))) * factor)
        return self._found[parts]

    def text_files(self) -> TextFiles:
        """See ``Checkpoint.text_files``."""
        return self._checkpoint.text_files()

    def _folded(self, name: str) -> float:
        """The factor that ``decoder.py`` folds into a weight."""
        spec, role = self.spec, name.rpartition(".")[2]
        if role == "final_norm":
            return spec.logits_multiplier
        is_last = role in _BLOCK_OUTPUTS if spec.norm_placement == "pre" else role.endswith("_post_norm")
        return spec.residual_multiplier if is_last else 1.0

    def _rounded(self, name: str, band: F32, chosen: WeightFormat, largest: float) -> F32:
        with np.errstate(over="ignore", invalid="ignore"):
            rounded = stored_values(band, chosen, self._dtype, largest)
            held = rounded.astype(self._dtype)  # the graph computes with the values in its own type
        if np.isfinite(band).all() and not np.isfinite(held).all():
            raise UnsupportedError(
                f"{name} holds weights of up to {np.abs(band).max():.3g}, which {self._dtype.name} cannot; choose "
                "--precision bf16"
            )
        return rounded
