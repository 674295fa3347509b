"""An engine over a session with a selection head, on the doubles: what it told, and in which order calls ran."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

from runtime.engine.config import EngineConfig
from runtime.engine.engine import Engine
from runtime.events import Event, FinishEvent, TokenEvent
from runtime.request import Request
from tests.runtime.session.gpu.heads import Opened, opened


class Served:
    """An engine over a session of a kind, and all that it told."""

    def __init__(
        self,
        graphs: dict[str, Path],
        *,
        on: bool = True,
        has_head: bool = True,
        kind: str = "recorded",
        **config: Any,
    ) -> None:
        self.parts: Opened = opened(kind, graphs, has_head=has_head, runs_ahead=True)
        self.engine = Engine(self.parts.session, EngineConfig(run_ahead=on, **config), count(1).__next__)
        self.tokens: dict[str, list[int]] = {}
        self.logprobs: dict[str, list[Any]] = {}
        self.ends: dict[str, FinishEvent] = {}

    def add(self, *requests: Request) -> Served:
        for one in requests:
            self.engine.add(one)
        return self

    def take(self, events: list[Event]) -> None:
        for event in events:
            assert event.request_id not in self.ends, f"{event} after its end"
            if isinstance(event, TokenEvent):
                self.tokens.setdefault(event.request_id, []).append(event.token_id)
                self.logprobs.setdefault(event.request_id, []).append(event.logprobs)
            elif isinstance(event, FinishEvent):
                self.ends[event.request_id] = event

    def step(self, times: int = 1) -> Served:
        for _ in range(times):
            self.take(self.engine.step().events)
        return self

    def run(self, before_step: Callable[[int], None] = lambda _step: None) -> Served:
        for step in range(500):
            if not self.engine.has_work:
                return self
            before_step(step)
            self.step()
        raise AssertionError("the engine does not come to an end")

    @property
    def num_ahead(self) -> int:
        """Calls that were launched while another one was not waited for."""
        return self._counted()[0]

    @property
    def num_flying(self) -> int:
        """Calls that were not waited for."""
        return self._counted()[1]

    def _counted(self) -> tuple[int, int]:
        found = flying = 0
        for done in self.order:
            flying += 1 if done.startswith("mark") else -1
            found += flying > 1 and done.startswith("mark")
        return found, flying

    @property
    def order(self) -> list[str]:
        return [done for done in self.parts.device.order if done != "wait"]
