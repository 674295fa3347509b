"""How much memory and scratch space measuring takes, in one graph or layer by layer, and which of the two is taken.

Arithmetic on a spec, a plan and the text's length; reads no weights. What does not fit is refused with the numbers,
before anything is written.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from export.checkpoint.explain import BASE_BYTES, estimate
from export.checkpoint.precision import EXACT, PrecisionPlan
from export.checkpoint.spec import DecoderSpec, weight_shapes
from export.errors import ExportError
from export.measure.layerwise import LOGITS_BYTES
from export.measure.quality import BAND_ROWS

_HALF_COPIES, _COPIES = 3, 2
"""A session's peak as multiples of its graph's bytes: matrices as stored and as the kernels want them, float16 ones
as float32 besides. Measured on the default model: float32 1.2, int8 1.4, int4 1.7, float16 2.8."""

_BAND_ARRAYS = 6
"""Arrays float64 of a band of rows while two distributions are compared."""


@dataclass(frozen=True, slots=True)
class TextSize:
    """Tokens of the built-in texts, together and of the longest window."""

    num_tokens: int
    window_tokens: int


@dataclass(frozen=True, slots=True)
class Way:
    """How the float32 twin is computed: whole or layer by layer, with what it takes at its peak."""

    is_whole: bool
    memory_bytes: int
    scratch_bytes: int


def choose_way(
    spec: DecoderSpec,
    plan: PrecisionPlan | None,
    max_model_len: int,
    text: TextSize,
    *,
    available_bytes: int,
    way_out: str,
) -> Way:
    """Whole if that fits into ``available_bytes``, else layer by layer. Raises ExportError if neither does.

    ``plan`` is the package's, None where its stored weights are a twin of their own in place of a graph that runs;
    ``way_out`` what a person may do besides finding a larger machine.
    """
    ways = [way(spec, plan, max_model_len, text) for way in (whole_way, layerwise_way)]
    for way in ways:
        if way.memory_bytes <= available_bytes:
            return way
    least = min(way.memory_bytes for way in ways)
    raise ExportError(
        f"measuring against float32 needs about {least / 2**30:.1f} GiB of memory at the least, "
        f"{available_bytes / 2**30:.1f} GiB are available; use a larger machine, or {way_out}"
    )


def whole_way(spec: DecoderSpec, plan: PrecisionPlan | None, max_model_len: int, text: TextSize) -> Way:
    """First the twin, with every layer's watched values of a window; then its head alone beside the package's graph,
    with two windows' logits of each. What the head reads of all windows stays. A second twin runs beside the first's
    head."""
    spec = spec if plan else replace(spec, tied_head=False)  # a stored head is a matrix of its own
    twin = estimate(spec, EXACT, max_model_len).graph_bytes
    head, hidden = 4 * spec.vocab_size * spec.hidden_size, 4 * text.num_tokens * spec.hidden_size
    layers = _COPIES * twin + _activation_bytes(spec, text)
    watched = layers + 4 * text.window_tokens * spec.num_layers * _watched_width(spec)
    compared = _COPIES * head + _comparing_bytes(spec, plan, max_model_len, text) + _logits_bytes(spec, text)
    if plan is None:
        watched, compared = watched + _COPIES * head, compared + _COPIES * head
        return Way(True, BASE_BYTES + 2 * hidden + max(watched, compared), 2 * twin)
    return Way(True, BASE_BYTES + hidden + max(watched, compared + 2 * _logits_bytes(spec, text)), twin)


def layerwise_way(spec: DecoderSpec, plan: PrecisionPlan | None, max_model_len: int, text: TextSize) -> Way:
    """Every window's stream, and beside it first one layer, then the package's graph with some windows' logits."""
    streams = 4 * spec.hidden_size * (text.num_tokens + text.window_tokens)
    layer = _layer_bytes(spec, max_model_len)
    running = _COPIES * layer + _activation_bytes(spec, text) + 4 * text.window_tokens * _watched_width(spec)
    logits = max(LOGITS_BYTES, _logits_bytes(spec, text))
    made = min(logits, 4 * spec.vocab_size * text.num_tokens)
    comparing = _comparing_bytes(spec, plan, max_model_len, text) + made
    if plan is None:
        streams, comparing = 2 * streams, comparing + made
    return Way(False, BASE_BYTES + streams + max(running, comparing), layer)


def golden_way(spec: DecoderSpec, max_model_len: int, text: TextSize, available_bytes: int) -> Way:
    """How golden rows are computed: as one float32 graph if that fits into ``available_bytes``, else layer by layer.

    Few rows get logits and nothing else is in memory, so a layer and the streams are all that the second way takes.
    """
    graph, layer = estimate(spec, EXACT, max_model_len).graph_bytes, _layer_bytes(spec, max_model_len)
    running = BASE_BYTES + _activation_bytes(spec, text)
    whole = Way(True, running + _COPIES * graph, graph)
    streams = 4 * spec.hidden_size * (text.num_tokens + text.window_tokens)
    return whole if whole.memory_bytes <= available_bytes else Way(False, running + streams + _COPIES * layer, layer)


def _comparing_bytes(spec: DecoderSpec, plan: PrecisionPlan | None, max_model_len: int, text: TextSize) -> int:
    """The package's graph, if one runs, with a window in it, its logits, and a band of rows of both distributions."""
    band = 8 * _BAND_ARRAYS * BAND_ROWS * spec.vocab_size
    if plan is None:
        return _logits_bytes(spec, text) + band
    copies = _HALF_COPIES if plan.float_type == "float16" else _COPIES
    graph = copies * estimate(spec, plan, max_model_len).graph_bytes
    return graph + _activation_bytes(spec, text) + _logits_bytes(spec, text) + band


def _logits_bytes(spec: DecoderSpec, text: TextSize) -> int:
    return 4 * text.window_tokens * spec.vocab_size


def _layer_bytes(spec: DecoderSpec, max_model_len: int) -> int:
    """One layer's graph in float32, with the rope tables that it may need."""
    weights = sum(math.prod(shape) for name, shape in weight_shapes(spec).items() if name.startswith("layers.0."))
    return 4 * (weights + max_model_len * sum(rope.dim for rope in spec.ropes))


def _activation_bytes(spec: DecoderSpec, text: TextSize) -> int:
    """A layer's values for one window: twice what flows through it, and attention's scores."""
    width = 3 * spec.hidden_size + 2 * (spec.q_size + spec.kv_size) + 3 * spec.intermediate_size
    return 4 * text.window_tokens * (2 * width + 2 * spec.num_heads * text.window_tokens)


def _watched_width(spec: DecoderSpec) -> int:
    """Columns of what a measurement may look at in a layer: its projections' inputs, its keys and values."""
    return 2 * spec.hidden_size + spec.q_size + spec.intermediate_size + 2 * spec.kv_size
