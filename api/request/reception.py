"""What taking in requests may cost the server, all of them together: limits of a body, bytes in flight, turns.

Knows no field, no route and no engine.
"""

from __future__ import annotations

from dataclasses import dataclass

from api.request.body_limits import BodyLimits, body_limits
from api.request.byte_budget import ByteBudget
from api.request.turns import Turns
from api.server_settings import Settings

_LEAST_BUDGET_BYTES = 64 * 2**20
_BODIES_IN_BUDGET = 64
_BODIES_WAITING = 8


@dataclass(frozen=True, slots=True)
class Reception:
    """One server's intake."""

    limits: BodyLimits
    budget: ByteBudget
    turns: Turns


def new_reception(settings: Settings, max_model_len: int) -> Reception:
    """The intake that settings and the model's context ask for."""
    limits = body_limits(max_model_len, settings.max_body_bytes)
    budget_bytes = settings.max_in_flight_bytes or max(_LEAST_BUDGET_BYTES, _BODIES_IN_BUDGET * limits.max_bytes)
    return Reception(limits, ByteBudget(budget_bytes), Turns(_BODIES_WAITING * limits.max_bytes))
