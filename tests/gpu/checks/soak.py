"""Random requests for as long as wanted: each ends once, nothing is lost, and the model stays the model."""

from __future__ import annotations

import random
from typing import Any

from runtime.engine.config import EngineConfig
from runtime.engine.engine import Engine
from runtime.events import FinishEvent, FinishReason
from runtime.session.session import FloatArray, Session
from tests.gpu.checks.rig import CheckFailed, Rig, check_equal_bits, opened, prompt
from tests.runtime.engine_driver import request

_PER_ROUND = 16


def a_long_mixed_load(rig: Rig) -> str:
    """Rounds until the time is over, two at least; a round's requests are the same on every machine."""
    model, begin, rounds, tokens = rig.model(), rig.clock(), 0, 0
    with opened(rig, model) as session:
        probe = _probe(session)
        free = 0
        while rounds < 2 or rig.clock() - begin < rig.soak_seconds:
            tokens += _round(session, random.Random(rounds))
            check_equal_bits(f"the probe after round {rounds + 1}", probe, _probe(session))
            free = free or rig.free_bytes()  # the first round may allocate what a runtime makes on the way
            rounds += 1
        lost = free - rig.free_bytes()
    if lost > rig.memory_noise_bytes:
        raise CheckFailed(f"{lost:,} bytes of the card's memory were lost in {rounds - 1} rounds")
    return f"{rounds} rounds, {tokens:,} tokens"


def _round(session: Session, chance: random.Random) -> int:
    info = session.info
    engine, live, ends, tokens = Engine(session, EngineConfig()), list[str](), dict[str, FinishReason](), 0
    for number in range(_PER_ROUND):
        name, answer = f"r{number}", chance.randrange(1, min(24, info.max_model_len // 2))
        text = prompt(chance.randrange(8), chance.randrange(1, info.max_model_len - answer), info.vocab_size)
        rules: dict[str, Any] = chance.choice([{}, {"temperature": 1.0, "seed": number}, {"logprobs": 2}])
        engine.add(request(name, text.tolist(), max_tokens=answer, **rules))
        live.append(name)
    while engine.has_work:
        events = list(engine.step().events)
        waiting = [name for name in live if name not in ends]
        if waiting and chance.random() < 0.1:
            events += engine.abort(chance.choice(waiting))
        for event in events:
            if isinstance(event, FinishEvent):
                if event.request_id in ends:
                    raise CheckFailed(f"{event.request_id} ended twice")
                ends[event.request_id] = event.reason
            else:
                tokens += 1
    bad = {
        name: str(reason) for name, reason in ends.items() if reason not in {FinishReason.LENGTH, FinishReason.ABORT}
    }
    if bad or set(ends) != set(live):
        raise CheckFailed(f"{len(ends)} of {len(live)} requests ended; wrongly: {bad}")
    return tokens


def _probe(session: Session) -> FloatArray:
    """Logits of a fixed prompt in the last slot."""
    rows = session.prefill(session.info.num_slots - 1, prompt(160, 14, session.info.vocab_size), 0, 4)
    return rows.copy()
