"""The canonical quantized form, its packing, and graphs that compute with it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from export.checkpoint.checkpoint import Checkpoint, TextFiles
from export.checkpoint.lazy_tensor import LazyTensor, concat_rows
from export.checkpoint.precision import PrecisionPlan, WeightFormat
from export.checkpoint.precision_policy import plan_from_name
from export.checkpoint.quantize import dequantize_rows, pack_offset_codes, quantize_rows
from export.checkpoint.spec import DecoderSpec
from export.source.hf.checkpoint import HfCheckpoint
from tests.export.graph_runs import GraphRun, write_graph
from tests.export.random_checkpoint import lazy_from_array
from tests.export.reference import reference_logits
from tests.export.tiny_models import tiny_input_ids, write_tiny_folder


def test_codes_and_scales_by_hand() -> None:
    """4 bits: [7, -3.5, 1, 0] has scale 1; [-8, 4, 0, 0] uses -8; zeros get scale 1 and code 0."""
    weights = np.array([[7, -3.5, 1, 0, -8, 4, 0, 0, 0, 0, 0, 0]], np.float32)
    codes, scale = quantize_rows(weights, 4, 4)
    assert scale.tolist() == [[1.0, 1.0, 1.0]]
    assert codes.tolist() == [[7, -4, 1, 0, -8, 4, 0, 0, 0, 0, 0, 0]]  # -3.5 rounds to even
    codes, scale = quantize_rows(weights[:, :4], 8, 4)
    assert scale.tolist() == [[np.float32(7 / 127)]]
    assert codes.tolist() == [[127, -64, 18, 0]]  # -3.5 / (7 / 127) = -63.5, 1 / (7 / 127) = 18.14


def test_packing_by_hand() -> None:
    codes = np.array([[-8, 7, 0, 1], [-1, -2, 3, 4]], np.int8)
    assert pack_offset_codes(codes, 4, 4).tolist() == [[[0xF0, 0x98]], [[0x67, 0xCB]]]
    assert pack_offset_codes(codes, 8, 4).tolist() == [[[120, 135, 128, 129]], [[127, 126, 131, 132]]]


MATRICES = hnp.arrays(np.float32, (3, 64), elements=st.floats(-1e4, 1e4, width=32))


@settings(max_examples=100)
@given(weights=MATRICES, bits=st.sampled_from([4, 8]), block=st.sampled_from([16, 32, 64]))
def test_every_weight_is_within_half_a_step(weights: npt.NDArray[np.float32], bits: int, block: int) -> None:
    codes, scale = quantize_rows(weights, bits, block)
    top = 2 ** (bits - 1)
    assert codes.min() >= -top
    assert codes.max() <= top - 1
    assert (scale > 0).all()
    error = np.abs(dequantize_rows(codes, scale) - weights).reshape(3, -1, block)
    assert (error <= scale[..., None] * (0.5 + 1e-3)).all()


class _Dequantized:
    """A checkpoint whose matrices are what a plan's quantization leaves of another's."""

    def __init__(self, base: Checkpoint, plan: PrecisionPlan) -> None:
        self._base, self._plan = base, plan

    @property
    def spec(self) -> DecoderSpec:
        return self._base.spec

    def tensor(self, name: str) -> LazyTensor:
        tensor = self._base.tensor(name)
        fused = name.replace(".gate", ".gate_up") if name.endswith("gate") else name
        chosen = self._plan.format_of(fused, tensor.shape[-1]) if len(tensor.shape) == 2 else WeightFormat()
        if not chosen.bits:
            return tensor
        codes, scale = quantize_rows(tensor.numpy(), chosen.bits, chosen.block)
        return lazy_from_array(name, dequantize_rows(codes, scale))

    def text_files(self) -> TextFiles:
        return self._base.text_files()


@pytest.mark.parametrize(
    ("name", "precision"), [("llama", "int8"), ("llama", "int4"), ("qwen3", "int4"), ("gemma3", "int8")]
)
def test_a_quantized_graph_computes_with_the_canonical_weights(name: str, precision: str, tmp_path: Path) -> None:
    """What is left between graph and reference is the kernels' int8 activations: far below a wrong nibble's effect."""
    checkpoint = HfCheckpoint(write_tiny_folder(tmp_path / "hf", name))
    plan = plan_from_name(precision)
    logits = GraphRun(write_graph(checkpoint, plan, tmp_path / "ort"), checkpoint.spec)(tiny_input_ids()[None], [0])
    expected = reference_logits(_Dequantized(checkpoint, plan), tiny_input_ids())
    error = np.sqrt(((logits - expected) ** 2).mean() / (expected**2).mean())
    assert error < 0.04


def test_formats_fit_the_matrix() -> None:
    eight = WeightFormat(8, 64)
    assert [eight.fitted(size).block for size in (576, 96, 48, 40)] == [64, 32, 16, 0]
    assert eight.fitted(40) == WeightFormat()
    assert plan_from_name("int4").format_of("embedding", 64) == eight
    assert plan_from_name("int4", 128).format_of("layers.0.down", 256) == WeightFormat(4, 128)


def test_lazy_tensors_are_read_band_by_band_in_order() -> None:
    whole = np.arange(40, dtype=np.float32).reshape(10, 4)
    a, b = lazy_from_array("a", whole[:3]), lazy_from_array("b", whole[3:])
    joined = concat_rows("ab", [a, b])
    assert np.array_equal(joined.numpy(), whole)
    assert np.array_equal(joined.read(2, 5), whole[2:5])
    assert np.array_equal(joined.take_rows(np.array([4, 2, 3, 9])).numpy(), whole[[4, 2, 3, 9]])
    assert np.array_equal(joined.slice_rows(2, 4).map(lambda band: band * 2).numpy(), whole[2:6] * 2)
