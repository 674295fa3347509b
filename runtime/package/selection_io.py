"""Names, dtypes and shapes of a selection head: rows of logits and their rules in, one token per row out.

The head draws by the rule of ``runtime.sampling.token_choice``: tokens in a line, likeliest first, equal logits by
lower id; each way of keeping takes a beginning of it; one number in [0, 1) says how far along the kept weight the
token lies. Axes: B rows, V vocabulary.

| input                  | dtype   | shape               | meaning                                                     |
|------------------------|---------|---------------------|-------------------------------------------------------------|
| ``logits``             | float32 | [B, V]              | as the model gives them                                     |
| ``inverse_temperature``| float32 | [B]                 | 1 / temperature; 1 for a greedy row                         |
| ``top_k``              | int32   | [B]                 | 0 keeps all; 1 for a greedy row                             |
| ``top_p``              | float32 | [B]                 | 1 keeps all                                                 |
| ``min_p``              | float32 | [B]                 | 0 keeps all                                                 |
| ``uniform``            | float32 | [B]                 | the choice's next number, rounded to float32                |
| ``edit_ids``           | int32   | [B, 32]             | tokens whose logits change, each once; V where none does    |
| ``edit_bias``          | float32 | [B, 32]             | added first; -inf bans                                      |
| ``edit_penalty``       | float32 | [B, 32]             | then divides what is above 0 and multiplies the rest; 1     |
| ``edit_subtract``      | float32 | [B, 32]             | subtracted last                                             |
| ``mask``               | uint8   | [B, ceil(V/32) * 4] | a constraint's mask (``runtime.token_mask``) as bytes;      |
|                        |         |                     | only in a head made with one                                |

| output                 | dtype   | shape               | meaning                                                     |
|------------------------|---------|---------------------|-------------------------------------------------------------|
| ``token``              | int32   | [B]                 | the drawn token, if it is settled                           |
| ``settled``            | int32   | [B]                 | ``TOKEN_SETTLED``, ``TOP_SETTLED``, their sum, or 0         |
| ``logprob``            | float32 | [B]                 | the token's, of the logits under the mask but before edits  |
| ``top_ids``            | int32   | [B, 20]             | the likeliest by the same logits, best first, ties by id    |
| ``top_logprobs``       | float32 | [B, 20]             | -inf where the mask leaves no more: the id means nothing    |

A row whose token is not settled is the host's to draw, from the same logits and the same number: what is kept or drawn
may lie beyond the ``TOP_TOKENS`` likeliest, rounding may decide (``TOLERANCE``), tokens of equal logits may lie on both
sides of what is seen, or a logit is no usable number. A settled token is the host's token: docs/architecture.md.

Owns names, dtypes, shapes and numbers; knows neither onnx nor onnxruntime.
"""

from __future__ import annotations

from typing import Any

import numpy as np

LOGITS = "logits"
INVERSE_TEMPERATURE = "inverse_temperature"
TOP_K = "top_k"
TOP_P = "top_p"
MIN_P = "min_p"
UNIFORM = "uniform"
EDIT_IDS = "edit_ids"
EDIT_BIAS = "edit_bias"
EDIT_PENALTY = "edit_penalty"
EDIT_SUBTRACT = "edit_subtract"
MASK = "mask"

DRAWN = "token"
SETTLED = "settled"
LOGPROB = "logprob"
TOP_IDS = "top_ids"
TOP_LOGPROBS = "top_logprobs"

MAX_EDITS = 32
MAX_TOP_LOGPROBS = 20
TOP_TOKENS = 256
"""The likeliest tokens that a head looks at."""
TOKEN_SETTLED = 1
TOP_SETTLED = 2

TOLERANCE = 2.0**-15
"""How far apart, relatively, a head's sums in float32 and the host's may be; a draw nearer to an end is not settled."""


def mask_bytes(vocab_size: int) -> int:
    """Bytes of a row's mask: whole words of 32 bits."""
    return -(-vocab_size // 32) * 4


_F32, _I32 = np.dtype(np.float32), np.dtype(np.int32)

RULES: dict[str, tuple[np.dtype[Any], int]] = {
    INVERSE_TEMPERATURE: (_F32, 1),
    TOP_K: (_I32, 1),
    TOP_P: (_F32, 1),
    MIN_P: (_F32, 1),
    UNIFORM: (_F32, 1),
    EDIT_IDS: (_I32, MAX_EDITS),
    EDIT_BIAS: (_F32, MAX_EDITS),
    EDIT_PENALTY: (_F32, MAX_EDITS),
    EDIT_SUBTRACT: (_F32, MAX_EDITS),
}
"""The inputs that are a row's rules: dtype, and numbers per row. The mask is apart: few rows have one."""

OUTPUTS: dict[str, tuple[np.dtype[Any], int]] = {
    DRAWN: (_I32, 1),
    SETTLED: (_I32, 1),
    LOGPROB: (_F32, 1),
    TOP_IDS: (_I32, MAX_TOP_LOGPROBS),
    TOP_LOGPROBS: (_F32, MAX_TOP_LOGPROBS),
}

DTYPES: dict[str, np.dtype[Any]] = {
    LOGITS: _F32,
    MASK: np.dtype(np.uint8),
    **{name: dtype for name, (dtype, _) in {**RULES, **OUTPUTS}.items()},
}
"""Of every input and output of a head with a mask."""


def input_shapes(num_rows: int, vocab_size: int) -> dict[str, tuple[int, ...]]:
    """Shape of every input of a head with a mask, the logits included, for so many rows."""
    shapes = {name: row_shape(width, num_rows) for name, (_, width) in RULES.items()}
    return {LOGITS: (num_rows, vocab_size), **shapes, MASK: (num_rows, mask_bytes(vocab_size))}


def output_shapes(num_rows: int) -> dict[str, tuple[int, ...]]:
    """Shape of every output of a head for so many rows."""
    return {name: row_shape(width, num_rows) for name, (_, width) in OUTPUTS.items()}


def row_shape(width: int, num_rows: int) -> tuple[int, ...]:
    """[B] of inputs and outputs with one number per row, else [B, width]."""
    return (num_rows,) if width == 1 else (num_rows, width)


def neutral(name: str, vocab_size: int) -> float:
    """The value of an input of ``RULES`` that changes nothing: no edit, and the likeliest of all tokens is drawn."""
    special = {INVERSE_TEMPERATURE: 1.0, TOP_K: 1, TOP_P: 1.0, EDIT_IDS: vocab_size, EDIT_PENALTY: 1.0}
    return special.get(name, 0.0)
