"""Penalties, top_p and log-probabilities on the backend's logits: exactly what the rules make of those logits here.

And what the backend itself chooses by them, of the same numbers: the same tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import count
from typing import Any

from runtime.engine.config import EngineConfig
from runtime.engine.engine import Engine
from runtime.events import TokenEvent
from runtime.session.session import FloatArray, Int64Array, Session, decode_logits
from tests.around_session import AroundSession
from tests.gpu.checks.rig import CheckFailed, Rig, opened, prompt
from tests.runtime.engine_driver import request

_RULES: tuple[dict[str, Any], ...] = (
    {"temperature": 0.0, "logprobs": 5},
    {"temperature": 0.9, "top_p": 0.8, "seed": 1, "logprobs": 3},
    {"temperature": 1.2, "repetition_penalty": 1.3, "presence_penalty": 0.7, "frequency_penalty": 0.4, "seed": 2},
    {"temperature": 0.8, "top_k": 9, "min_p": 0.05, "logit_bias": ((3, 4.0), (5, -100.0)), "seed": 3, "logprobs": 0},
)
_TOKENS = 12
_LOGPROB_NATS = 1e-3
"""Between float32 sums in two orders, with room for logits that a session computed in another batch."""


@dataclass
class _Watched(AroundSession):
    """A session whose every answer is copied as it comes back."""

    answers: list[FloatArray] = field(default_factory=list)

    def prefill(self, slot: int, token_ids: Int64Array, start: int, num_logits: int) -> FloatArray:
        rows = self.inner.prefill(slot, token_ids, start, num_logits)
        self.answers.append(rows.copy())
        return rows

    def decode(self, first_slot: int, token_ids: Int64Array, positions: Int64Array) -> FloatArray:
        rows = decode_logits(self.inner, first_slot, token_ids, positions)
        self.answers.append(rows.copy())
        return rows


class _Replayed(_Watched):
    """The same answers again, from memory of the host alone."""

    def prefill(self, slot: int, token_ids: Int64Array, start: int, num_logits: int) -> FloatArray:
        del slot, token_ids, start
        return self._again(num_logits)

    def decode(self, first_slot: int, token_ids: Int64Array, positions: Int64Array) -> FloatArray:
        del first_slot, positions
        return self._again(len(token_ids))

    def _again(self, num_rows: int) -> FloatArray:
        if not self.answers or len(self.answers[0]) != num_rows:
            raise CheckFailed("on the same logits the rules ended an answer elsewhere")
        return self.answers.pop(0)

    def copy_slot(self, source: int, target: int, num_tokens: int, start: int = 0) -> None:
        del source, target, num_tokens, start


def rules_on_its_logits(rig: Rig) -> str:
    """A buffer that a device still writes to, or that cannot be written here, makes the two runs differ."""
    with opened(rig, rig.model()) as session:
        watched = _Watched(session)
        ours = _events(watched)
        calls = len(watched.answers)
        theirs = _events(_Replayed(session, watched.answers))
    different = next((pair for pair in zip(ours, theirs, strict=False) if pair[0] != pair[1]), None)
    if different or len(ours) != len(theirs):
        raise CheckFailed(f"on the same logits the rules gave {different} here and there")
    return f"{len(ours)} events of {len(_RULES)} rules over {calls} calls"


def the_device_chooses_what_the_host_draws(rig: Rig) -> str:
    """One session by its head, one by the host, whose watch asks for all logits: the tokens must be the same."""
    with opened(rig, rig.model()) as session:
        if not session.info.selects:
            return "the session chooses no tokens"
        ours = _tokens(_events(session))
    with opened(rig, rig.model()) as session:
        theirs = _tokens(_events(_Watched(session)))
    for (name, place), (token_id, logprob) in theirs.items():
        mine = ours.get((name, place))
        if mine is None or mine[0] != token_id:
            raise CheckFailed(f"token {place} of {name} is {token_id} by the host's rules, the device chose {mine}")
        if abs(mine[1] - logprob) > _LOGPROB_NATS:
            raise CheckFailed(f"token {place} of {name}: log-probability {mine[1]:.6g}, the host's is {logprob:.6g}")
    return f"{len(theirs)} tokens of {len(_RULES)} rules"


def _tokens(events: list[Any]) -> dict[tuple[str, int], tuple[int, float]]:
    found: dict[tuple[str, int], tuple[int, float]] = {}
    for event in events:
        if isinstance(event, TokenEvent):
            place = sum(name == event.request_id for name, _ in found)
            told = 0.0 if event.logprobs is None else event.logprobs.logprob
            found[event.request_id, place] = event.token_id, told
    return found


def _events(session: Session) -> list[Any]:
    engine = Engine(session, EngineConfig(prefix_cache=False), count(1).__next__)
    vocab_size, events = session.info.vocab_size, list[Any]()
    for index, rules in enumerate(_RULES):
        text = prompt(120 + index, 10 + 5 * index, vocab_size).tolist()
        engine.add(request(f"r{index}", text, max_tokens=_TOKENS, **rules))
    while engine.has_work:
        events += engine.step().events
    return events
