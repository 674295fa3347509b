"""The shapes that a graph for TensorRT is compiled for: decode and prefill. Shared by plans built ahead and by
ONNX Runtime's providers that compile when they load. Numbers only; knows no library."""

from __future__ import annotations

from runtime.package import graph_io

Shapes = dict[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]]

MAX_LOGITS = 16
"""Rows of logits that one prefill call can give: a prompt needs one, checking a drafted continuation a few more."""

SLOT_STEP = 64
"""Rows of a slot come in multiples of it, which keeps every slot where CUDA kernels can load in full width."""


def slot_rows(max_model_len: int) -> int:
    """Rows of a cache slot in GPU memory that holds ``max_model_len`` tokens: the next multiple of 64."""
    return -(-max_model_len // SLOT_STEP) * SLOT_STEP


def profile_shapes(max_slots: int, prefill_tokens: int, cache_shapes: dict[str, tuple[int, int, int]]) -> list[Shapes]:
    """Smallest, best and largest shape of every input, for decode and for prefill, in that order.

    ``cache_shapes`` maps each cache input to (heads, capacity, head_dim). Kernels are tuned for the best shape: half
    the slots decoding, a full chunk of prompt.
    """
    slots, tokens, half = max_slots, prefill_tokens, max(1, max_slots // 2)
    decode = ((1, 1, 1), (half, 1, half), (slots, 1, slots))
    prefill = ((1, 1, 1), (1, tokens, 1), (1, tokens, max_prefill_logits(tokens)))
    profiles = []
    for low, best, high in (decode, prefill):
        shapes: Shapes = {
            graph_io.INPUT_IDS: (low[:2], best[:2], high[:2]),
            graph_io.WRITE_INDICES: (low[:1], best[:1], high[:1]),
            graph_io.LOGITS_INDICES: (low[2:], best[2:], high[2:]),
        }
        for name, shape in cache_shapes.items():
            shapes[name] = ((low[0], *shape), (best[0], *shape), (high[0], *shape))
        profiles.append(shapes)
    return profiles


def prefill_buckets(prefill_tokens: int) -> tuple[int, ...]:
    """Tokens per call, ascending, where each number that occurs costs a compilation: a chunk is padded to the next.

    The two smallest are for the last rows of a slot, which a padded chunk would run past.
    """
    buckets = [1, 8, 64]
    while buckets[-1] < prefill_tokens:
        buckets.append(2 * buckets[-1])
    return (*(size for size in buckets if size < prefill_tokens), prefill_tokens)


def max_prefill_logits(prefill_tokens: int) -> int:
    """Rows of logits of a prefill call."""
    return min(MAX_LOGITS, prefill_tokens)
