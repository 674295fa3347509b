"""An engine under an open load in simulated time: arrivals come when they come, whether earlier ones ended or not.

The engine, its scheduler and the admission rule are the real ones; the session is arithmetic and every call of it
moves the clock. So a minute of overload takes a second, and every run gives the same numbers.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace

from runtime.engine.admission import Admission
from runtime.engine.config import EngineConfig
from runtime.engine.engine import Engine
from runtime.errors import Overloaded
from runtime.events import FinishEvent, FinishReason, TokenEvent
from tests.fakes import Call, ScriptedSession, adding
from tests.runtime.engine_driver import request

_MS = 1_000_000
PREFILL_NS_PER_TOKEN = _MS // 2
DECODE_NS = 10 * _MS
IDLE_NS = _MS


@dataclass
class LoadResult:
    """What became of every arrival; times in simulated seconds."""

    ttft_s: list[float] = field(default_factory=list)
    retry_after_s: list[int] = field(default_factory=list)
    num_expired: int = 0
    num_finished: int = 0
    end_s: float = 0.0
    wait_at_end_s: float = -1.0

    def ttft_quantile(self, share: float) -> float:
        """The time to first token that ``share`` of the accepted requests did not exceed."""
        ordered = sorted(self.ttft_s)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def simulate(
    rate_per_s: float,
    duration_s: float,
    config: EngineConfig,
    *,
    num_slots: int = 4,
    prompt_tokens: tuple[int, int] = (10, 60),
    max_tokens: tuple[int, int] = (10, 60),
) -> LoadResult:
    """Poisson arrivals for a while, then the engine works off what it accepted."""
    now = [0]

    def spend(call: Call) -> None:
        now[0] += DECODE_NS if call.kind == "decode" else PREFILL_NS_PER_TOKEN * len(call.tokens)

    session = ScriptedSession(adding, num_slots, 256, before_call=spend)
    engine = Engine(session, config, lambda: now[0])
    admission = Admission(config, lambda: now[0])
    admission.num_slots = num_slots
    rng = random.Random(5)
    result = LoadResult()
    arrivals: dict[str, int] = {}
    next_ns = 0.0
    while True:
        while next_ns <= now[0] and next_ns < duration_s * 1e9:
            name = f"r{len(arrivals)}"
            arrivals[name] = int(next_ns)
            prompt = [rng.randrange(500) for _ in range(rng.randint(*prompt_tokens))]
            one = replace(request(name, prompt, max_tokens=rng.randint(*max_tokens)), arrival_ns=int(next_ns))
            next_ns += rng.expovariate(rate_per_s) * 1e9
            try:
                admission.check()
            except Overloaded as refusal:
                result.retry_after_s.append(refusal.retry_after_s)
                continue
            admission.accept(one)
            engine.add(one)
        if not engine.has_work:
            if next_ns >= duration_s * 1e9:
                break
            now[0] += IDLE_NS
            continue
        _step(engine, admission, now, arrivals, result)
    result.end_s = now[0] / 1e9
    result.wait_at_end_s = admission.predicted_wait_s()
    return result


def _step(engine: Engine, admission: Admission, now: list[int], arrivals: dict[str, int], result: LoadResult) -> None:
    begin_ns = now[0]
    step = engine.step()
    admission.note_step(step.num_prefilled, now[0] - begin_ns)
    admission.note_events(step.events)
    for event in step.events:
        arrival_ns = arrivals.get(event.request_id, -1)
        if isinstance(event, TokenEvent) and arrival_ns >= 0:
            result.ttft_s.append((now[0] - arrival_ns) / 1e9)
            arrivals[event.request_id] = -1
        elif isinstance(event, FinishEvent):
            result.num_expired += event.reason is FinishReason.EXPIRED
            result.num_finished += event.reason is not FinishReason.EXPIRED
