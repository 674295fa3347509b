"""A function that a model may call, as the formats see it. Knows no request and checks nothing."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Tool:
    """``parameters`` is the JSON Schema of the arguments, as JSON text; ``strict`` asks for it to be enforced."""

    name: str
    parameters: str = '{"type":"object"}'
    strict: bool = False
