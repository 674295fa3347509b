"""A session and a text -> what the model writes after it, greedily: what lm-eval's generative tasks ask for.

Drives an engine of its own, one text at a time. Knows no score.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from runtime.engine.config import EngineConfig
from runtime.engine.engine import Engine
from runtime.events import FinishEvent, TokenEvent
from runtime.request import Request, SamplingParams
from runtime.session.session import Session
from runtime.text.tokenizer import Tokenizer

from bench.errors import BenchError


@dataclass(frozen=True, slots=True)
class GreedyText:
    """Writes with ``session``, which nobody else uses meanwhile. ``end_ids`` are the model's own end tokens."""

    session: Session
    tokenizer: Tokenizer
    end_ids: frozenset[int]

    def after(self, text: str, stops: Sequence[str], max_tokens: int) -> str:
        """At most ``max_tokens`` tokens, up to the first stop string. A text that is too long loses its beginning.

        Raises BenchError when the engine fails.
        """
        room = self.session.info.max_model_len
        most = max(1, min(max_tokens, room // 2))
        ids = self.tokenizer.encode_plain(text, add_special_tokens=True)[-(room - most) :]
        engine = Engine(self.session, EngineConfig(prefix_cache=False))
        sampling = SamplingParams(max_tokens=most, temperature=0.0)
        engine.add(Request(request_id="text", prompt_ids=tuple(ids), sampling=sampling, eos_token_ids=self.end_ids))
        written: list[int] = []
        while engine.has_work:
            for event in engine.step().events:
                if isinstance(event, FinishEvent) and event.error:
                    raise BenchError(f"the engine ended a text with an error: {event.error}")
                if isinstance(event, TokenEvent) and event.token_id not in self.end_ids:
                    written.append(event.token_id)
            cut, is_cut = _up_to(self.tokenizer.decode(written), stops)
            if is_cut:
                return cut
        return self.tokenizer.decode(written)


def _up_to(text: str, stops: Sequence[str]) -> tuple[str, bool]:
    """The text before the first stop string in it, and whether there was one."""
    places = [at for stop in stops if stop and (at := text.find(stop)) >= 0]
    return (text[: min(places)], True) if places else (text, False)
