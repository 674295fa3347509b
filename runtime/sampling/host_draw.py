"""The drawing of a whole call's tokens as one function, for a session that calls it as soon as it has the logits.

From launch to landing of the call the rows' samplers belong to whoever runs it: the engine looks at no changing part of
them meanwhile. What is drawn is what ``sample`` draws, since it is. Knows no session and no thread.
"""

from __future__ import annotations

from collections.abc import Sequence

from runtime.sampling.sampler import NoToken, Sampled, SamplerState, sample
from runtime.session.session import FloatArray


class DrawnBehind:
    """``runtime.session.session.HostDraw`` for rows with these samplers. ``drawn`` are its tokens, row by row, None for
    a row without a sampler; empty before it was called."""

    def __init__(self, states: Sequence[SamplerState | None]) -> None:
        self._states = states
        self.drawn: list[Sampled | NoToken | None] = []
        self.token_ids: list[int] = []

    def __call__(self, logits: FloatArray) -> list[int]:
        """Draw from rows [B, V], which are scratch afterwards. A row without a token gives 0, which counts nowhere: its
        sequence ends, and so the row behind it is void."""
        self.drawn = sample(logits, self._states)
        self.token_ids = [token.token_id if isinstance(token, Sampled) else 0 for token in self.drawn]
        return self.token_ids
