"""An engine over a session whose decode calls run on a thread of their own, driven by hand."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from runtime.engine.engine import Engine
from runtime.events import TokenEvent
from runtime.session.cpu.threaded_session import ThreadedSession
from tests.fakes import Call
from tests.runtime.engine_driver import Driver

WAIT_S = 20.0
"""For what must come; nothing waits as long unless it fails."""
V = 512


def wandering(history: list[int]) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Logits of a bell that every token of the history changes."""
    return np.random.default_rng([len(history), *history[-3:]]).standard_normal(V).astype(np.float32) * 2


class Ahead(Driver):
    """An engine over a threaded session, or, when ``off``, the session alone; ``begun`` counts calls on the thread."""

    off = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self.logprobs: dict[tuple[str, int], list[Any]] = {}
        self.begun = 0
        self.began = threading.Condition()
        self.at_call: Callable[[int], None] = lambda _number: None
        self.session.before_call = self._note
        self.threaded = ThreadedSession(self.session)
        if not self.off:
            self.engine = Engine(self.threaded, self.config, self.clock)

    def _note(self, call: Call) -> None:
        if on_its_thread():
            assert call.kind == "decode"
            with self.began:
                self.begun += 1
                self.began.notify_all()
            self.at_call(self.begun)

    def wait_begun(self, number: int) -> None:
        """Return when so many calls were begun on the thread."""
        with self.began:
            assert self.began.wait_for(lambda: self.begun >= number, WAIT_S)

    def take(self, events: list[Any]) -> None:
        super().take(events)
        for event in events:
            if isinstance(event, TokenEvent):
                self.logprobs.setdefault((event.request_id, event.index), []).append(event.logprobs)

    def close(self) -> None:
        """End the thread, and see that it is gone."""
        self.threaded.close()
        assert not decode_threads()


class Plain(Ahead):
    """The same without a thread."""

    off = True


def on_its_thread() -> bool:
    """Whether the caller runs on a thread of calls."""
    return threading.current_thread().name == "powertrain-decode"


def decode_threads() -> list[threading.Thread]:
    """Those that are alive."""
    return [one for one in threading.enumerate() if one.name == "powertrain-decode"]
