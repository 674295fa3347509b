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

Owns names and numbers only; knows neither onnx nor onnxruntime.
"""

from __future__ import annotations

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
