"""Drives an Engine by hand: no thread, no loop, a clock that counts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from runtime.engine.config import EngineConfig
from runtime.engine.engine import Engine
from runtime.events import FinishEvent, PromptEvent, PromptTokenLogprobs, TokenEvent
from runtime.request import Request, SamplingParams
from runtime.token_mask import Constraint
from tests.fakes import Script, ScriptedSession, adding


def request(
    name: str,
    prompt: list[int],
    max_tokens: int = 8,
    n: int = 1,
    eos: int = -1,
    constraint: Constraint | None = None,
    watch_ends: bool = False,
    prompt_logprobs: int | None = None,
    **sampling: Any,
) -> Request:
    """A greedy request unless ``sampling`` says otherwise."""
    params: dict[str, Any] = {"temperature": 0.0, **sampling}
    return Request(
        request_id=name,
        prompt_ids=tuple(prompt),
        sampling=SamplingParams(max_tokens=max_tokens, **params),
        eos_token_ids=frozenset({eos}) if eos >= 0 else frozenset(),
        n=n,
        constraint=constraint,
        watch_ends=watch_ends,
        prompt_logprobs=prompt_logprobs,
    )


@dataclass
class Driver:
    """An engine over a scripted session, and everything that it said."""

    script: Script = adding
    num_slots: int = 4
    max_model_len: int = 256
    config: EngineConfig = field(default_factory=EngineConfig)
    clock: Callable[[], int] = field(default_factory=lambda: count(1).__next__)
    decode_buckets: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        self.session = ScriptedSession(
            self.script, self.num_slots, self.max_model_len, decode_buckets=self.decode_buckets
        )
        self.engine = Engine(self.session, self.config, self.clock)
        self.tokens: dict[tuple[str, int], list[int]] = {}
        self.scores: dict[str, tuple[PromptTokenLogprobs, ...]] = {}
        self.finishes: dict[tuple[str, int], FinishEvent] = {}
        self.max_batch = 0

    def add(self, *requests: Request) -> None:
        for one in requests:
            self.engine.add(one)

    def step(self) -> None:
        result = self.engine.step()
        self.max_batch = max(self.max_batch, result.num_decoded)
        self.take(result.events)

    def abort(self, name: str) -> None:
        self.take(self.engine.abort(name))

    def take(self, events: list[Any]) -> None:
        for event in events:
            key = (event.request_id, event.index)
            if key in self.finishes:
                raise AssertionError(f"{key} spoke after its end: {event}")
            if isinstance(event, TokenEvent):
                self.tokens.setdefault(key, []).append(event.token_id)
            elif isinstance(event, PromptEvent):
                if event.request_id in self.scores or any(name == event.request_id for name, _ in self.tokens):
                    raise AssertionError(f"{event.request_id}: a prompt's scores come once, and first")
                self.scores[event.request_id] = event.scores
            else:
                self.finishes[key] = event

    def run(self, limit: int = 2000) -> None:
        for _ in range(limit):
            if not self.engine.has_work:
                return
            self.step()
        raise AssertionError("the engine does not come to an end")


def adding_reply(prompt: list[int], num_tokens: int) -> list[int]:
    """What the ``adding`` script generates: each token is the sum of all before, modulo 500."""
    history = list(prompt)
    for _ in range(num_tokens):
        history.append(sum(history) % 500)
    return history[len(prompt) :]
