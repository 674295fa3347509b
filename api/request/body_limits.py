"""How large a body may be, and how many things may stand in it. Values only; ``api.request.json_body`` applies them.

A body becomes Python objects in calls that hold the interpreter lock, during which no other request moves. These
limits bound what one such call costs: some 20 ms on a slow core.
"""

from __future__ import annotations

from dataclasses import dataclass

MAX_NESTING = 128
MAX_KEYS = 256
"""Names at the top level of a body, and within ``nvext``: the contract knows some 70."""
MAX_CONTAINERS = 16_384
MAX_ARGUMENT_VALUES = 16_384
"""In the arguments of all tool calls of a request: they are JSON within JSON and get parsed too."""
_LEAST_BODY_BYTES = 256 * 1024
_BODY_BYTES_PER_TOKEN = 32
"""Prose has 4 to 5 bytes per token, and JSON that escapes every character up to 12."""
_LEAST_VALUES = 32_768
_VALUES_PER_TOKEN = 2


@dataclass(frozen=True, slots=True)
class BodyLimits:
    """Limits of one request's body. ``max_values`` counts commas outside strings, ``max_containers`` objects and lists.

    ``max_values`` leaves room for a prompt of token ids as long as the context.
    """

    max_bytes: int
    max_values: int
    max_containers: int = MAX_CONTAINERS


def body_limits(max_model_len: int, max_body_bytes: int | None = None) -> BodyLimits:
    """The limits for a context length; ``max_body_bytes`` is the operator's own number of bytes."""
    by_context = max(_LEAST_BODY_BYTES, _BODY_BYTES_PER_TOKEN * max_model_len)
    max_values = _LEAST_VALUES + _VALUES_PER_TOKEN * max_model_len
    return BodyLimits(by_context if max_body_bytes is None else max_body_bytes, max_values)
