"""SmoothQuant (Xiao et al. 2022, arXiv:2211.10438): moves the spread of a projection's inputs into its weights.

An input channel is divided by a factor where it is made, in the norm or projection before, and the matrix's column is
multiplied by it: the product is the same, but rounding all channels to one scale loses far less. Owns the factors and
the checkpoint that has them folded in. Emits no graph and measures nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

from export.checkpoint.checkpoint import Checkpoint, TextFiles
from export.checkpoint.lazy_tensor import F32, LazyTensor
from export.checkpoint.precision import WeightFormat
from export.checkpoint.precision_policy import integer_format
from export.checkpoint.spec import DecoderSpec

ALPHA = 0.8
"""How much of the spread moves. SmoothQuant's authors take 0.5 to 0.85. Mean KL of the default model with all
projections but ``down``: 0.7 0.0157, 0.75 0.0141, 0.8 0.0144, 0.85 0.0134; with eight layers of it: 0.8 0.0176, 0.85
0.0178."""

HEADROOM = 1.1
"""Inputs may grow this far beyond the texts they were measured on before they are clipped."""

_TOP_CODE = 127
_SMALLEST_MAGNITUDE = 1e-5
_NORMS = {"qkv": "attention_norm", "gate_up": "mlp_norm"}
_PARTS = {"qkv": ("q", "k", "v"), "o": ("o",), "gate_up": ("gate", "up"), "down": ("down",)}


@dataclass(frozen=True, slots=True)
class IntegerFit:
    """How a projection becomes a product of integers: its format, and the factors of its inputs, float32 [K]."""

    format: WeightFormat
    factors: F32


def fit_projections(checkpoint: Checkpoint, ranges: Mapping[str, F32]) -> dict[str, IntegerFit]:
    """A fit for every projection of ``ranges``, which holds each input channel's largest magnitude, float32 [K]."""
    fits = {}
    for name, largest in ranges.items():
        factors = _factors(checkpoint, name, np.maximum(largest, np.float32(_SMALLEST_MAGNITUDE)))
        scale = HEADROOM * float((largest / factors).max()) / _TOP_CODE
        fits[name] = IntegerFit(integer_format(max(scale, _SMALLEST_MAGNITUDE)), factors)
    return fits


class SmoothedCheckpoint:
    """``checkpoint`` with the factors of the projections ``names`` folded in; it computes the same function."""

    def __init__(self, checkpoint: Checkpoint, fits: Mapping[str, IntegerFit], names: Collection[str]) -> None:
        self._checkpoint = checkpoint
        self._rows: dict[str, F32] = {}
        self._columns: dict[str, F32] = {}
        for name in sorted(names):
            self._fold(name, fits[name].factors)

    @property
    def spec(self) -> DecoderSpec:
        """Unchanged."""
        return self._checkpoint.spec

    def tensor(self, name: str) -> LazyTensor:
        """See ``Checkpoint.tensor``."""
        tensor = self._checkpoint.tensor(name)
        if (columns := self._columns.get(name)) is not None:
            tensor = tensor.map(lambda band: band * columns)
        rows = self._rows.get(name)
        return tensor if rows is None else tensor.scale_rows(rows)

    def text_files(self) -> TextFiles:
        """Unchanged."""
        return self._checkpoint.text_files()

    def value_factors(self, layer: int) -> F32 | None:
        """What the cached values of a layer are multiplied by, float32 [kv_size]; None: nothing."""
        return self._rows.get(f"layers.{layer}.v")

    def _fold(self, name: str, factors: F32) -> None:
        spec, (prefix, _, role) = self.spec, name.rpartition(".")
        for part in _PARTS[role]:
            self._columns[f"{prefix}.{part}"] = factors
        if role in _NORMS:
            if spec.norm_placement != "post":
                self._rows[f"{prefix}.{_NORMS[role]}"] = np.reciprocal(factors)
            return
        maker = "up" if role == "down" else "v"
        inverse = np.reciprocal(factors if role == "down" else _one_per_value_channel(spec, factors))
        self._rows[f"{prefix}.{maker}"] = self._rows[f"{prefix}.{maker}_bias"] = inverse


def _factors(checkpoint: Checkpoint, name: str, inputs: F32) -> F32:
    """max|x|^alpha / max|w|^(1 - alpha) per channel, equation 4 of the paper, with geometric mean 1; float32 [K]."""
    spec, (prefix, _, role) = checkpoint.spec, name.rpartition(".")
    if role in _NORMS and spec.norm_placement == "post":  # nothing before it could take the factors
        return np.ones_like(inputs)
    bands = (band for part in _PARTS[role] for band in checkpoint.tensor(f"{prefix}.{part}").bands())
    weights = np.full_like(inputs, _SMALLEST_MAGNITUDE)
    for band in bands:
        np.maximum(weights, np.abs(band).max(axis=0), out=weights)
    if role == "o":
        inputs, weights = _largest_of_group(spec, inputs), _largest_of_group(spec, weights)
    exponents = ALPHA * np.log(inputs) - (1 - ALPHA) * np.log(weights)
    factors: F32 = np.exp(exponents - exponents.mean()).astype(np.float32)
    return factors


def _by_group(spec: DecoderSpec, channels: F32) -> F32:
    """Attention's output channels [q_size] as [kv heads, query heads of each, head_dim]: a group shares its values."""
    return channels.reshape(spec.num_kv_heads, -1, spec.head_dim)


def _largest_of_group(spec: DecoderSpec, channels: F32) -> F32:
    grouped = _by_group(spec, channels)
    largest: F32 = np.broadcast_to(grouped.max(axis=1, keepdims=True), grouped.shape).reshape(-1)
    return largest


def _one_per_value_channel(spec: DecoderSpec, factors: F32) -> F32:
    return _by_group(spec, factors)[:, 0].reshape(-1)
