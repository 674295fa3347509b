"""The same request gives the same tokens and log-probabilities, bit by bit, whatever else the engine does.

Real weights on the CPU backend. Near-ties do not matter here: equality is of floats, not of rounded text.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from runtime.engine.config import EngineConfig
from runtime.engine.engine import Engine
from runtime.events import FinishEvent, PromptEvent, PromptTokenLogprobs, TokenEvent
from runtime.loading.model_loader import ModelOptions, plan_model, session_factory
from runtime.package.manifest import Package
from runtime.request import Request
from runtime.session.cpu.threaded_session import ThreadedSession
from runtime.session.distribution import log_softmax
from runtime.session.session import Session
from tests.runtime.engine_driver import request
from tests.runtime.scripted_constraint import ScriptedConstraint

pytestmark = pytest.mark.model

Trace = list[tuple[int, float, tuple[tuple[int, float], ...]]]


@pytest.fixture(scope="module")
def session(default_package: Package) -> Iterator[Session]:
    options = ModelOptions(num_slots=16, max_model_len=256)
    made = session_factory(default_package, plan_model(default_package, options), options)()
    yield made
    made.close()


def test_the_session_found_its_rows_independent(session: Session) -> None:
    assert session.info.batch_invariant


def prompt(seed: int, length: int) -> list[int]:
    return [int(token) for token in np.random.default_rng(seed).integers(300, 40_000, length)]


def subject(**changes: Any) -> Request:
    params: dict[str, Any] = {"temperature": 0.8, "top_p": 0.9, "seed": 11, "logprobs": 3, **changes}
    return request("subject", prompt(1, 70), max_tokens=12, **params)


def trace(session: Session, requests: list[Request], abort: tuple[str, ...] = (), **config: Any) -> Trace:
    engine = Engine(session, EngineConfig(**config))
    for one in requests:
        engine.add(one)
    found: Trace = []
    steps = 0
    while engine.has_work:
        events = engine.step().events
        steps += 1
        if steps == 6:
            for name in abort:
                engine.abort(name)
        for event in events:
            if event.request_id != "subject":
                continue
            if isinstance(event, PromptEvent):
                continue
            if isinstance(event, TokenEvent):
                assert event.logprobs is not None
                found.append((event.token_id, event.logprobs.logprob, event.logprobs.top))
            else:
                assert isinstance(event, FinishEvent)
                assert event.error is None
    return found


def crowd(count: int = 15) -> list[Request]:
    return [request(f"other{i}", prompt(100 + i, 5 + 3 * i), max_tokens=4 + i, temperature=1.0) for i in range(count)]


@pytest.fixture(scope="module")
def alone(session: Session) -> Trace:
    return trace(session, [subject()])


def test_alone_twice(session: Session, alone: Trace) -> None:
    assert len(alone) == 12
    assert trace(session, [subject()]) == alone


@pytest.mark.parametrize("place", [0, 7, 15])
def test_beside_fifteen_others_in_any_slot(session: Session, alone: Trace, place: int) -> None:
    others = crowd()
    assert trace(session, [*others[:place], subject(), *others[place:]]) == alone


@pytest.mark.parametrize("chunk", [16, 33, 69])
def test_with_any_chunking(session: Session, alone: Trace, chunk: int) -> None:
    assert trace(session, [subject()], prefill_chunk_tokens=chunk, idle_prefill_chunk_tokens=chunk) == alone


def test_beside_aborts_and_slot_moves(session: Session, alone: Trace) -> None:
    """One step after the other, and one ahead."""
    others = crowd(8)
    requests = [*others[:4], subject(), *others[4:]]
    ahead = ThreadedSession(session)
    for each in (session, ahead):
        assert trace(each, requests, abort=("other0", "other2", "other5"), prefill_chunk_tokens=32) == alone
    ahead.stop()


def test_greedy_too(session: Session) -> None:
    greedy = subject(temperature=0.0)
    assert trace(session, [*crowd(6), greedy], prefill_chunk_tokens=40) == trace(session, [greedy])


def constrained_crowd(session: Session, count: int) -> tuple[list[Request], list[ScriptedConstraint]]:
    """Others, two of three of which go by masks of a few or of many tokens, some of them late."""
    constraints = []
    requests = []
    few, many = set(range(500, 520)), set(range(500, 40_000, 3))
    for place, other in enumerate(crowd(count)):
        if place % 3:
            constraint = ScriptedConstraint(
                lambda generated: many if len(generated) % 2 else few,
                late=lambda position, place=place: (position * place) % 4,  # type: ignore[misc]
                vocab_size=session.info.vocab_size,
            )
            constraints.append(constraint)
            requests.append(replace(other, constraint=constraint))
        else:
            requests.append(other)
    return requests, constraints


def test_beside_constrained_ones_whose_masks_are_late(session: Session, alone: Trace) -> None:
    others, constraints = constrained_crowd(session, 9)
    assert trace(session, [*others[:4], subject(), *others[4:]]) == alone
    assert all(constraint.all_closed for constraint in constraints)


def test_a_constrained_one_too_and_however_late_its_masks_are(session: Session) -> None:
    few, many = set(range(400, 430)), set(range(300, 40_000, 7))

    def constrained(late: int) -> Request:
        constraint = ScriptedConstraint(
            lambda generated: few if len(generated) % 3 else many,
            late=lambda position: late * position % 5,
            vocab_size=session.info.vocab_size,
        )
        return replace(subject(), constraint=constraint)

    others, _ = constrained_crowd(session, 6)
    alone = trace(session, [constrained(late=0)])
    assert len(alone) == 12
    assert trace(session, [*others[:3], constrained(late=3), *others[3:]]) == alone


def run(engine: Engine, one: Request) -> tuple[Trace, int]:
    """What a request alone gets from an engine that may have cached something, and how many tokens it had cached."""
    engine.add(one)
    found: Trace = []
    cached = -1
    while engine.has_work:
        for event in engine.step().events:
            if isinstance(event, FinishEvent):
                cached = event.num_cached_tokens
            elif isinstance(event, TokenEvent) and event.logprobs is not None:
                found.append((event.token_id, event.logprobs.logprob, event.logprobs.top))
    return found, cached


def test_a_cached_prompt_equals_an_uncached_one(session: Session, alone: Trace) -> None:
    engine = Engine(session, EngineConfig(deterministic=True))
    assert run(engine, subject()) == (alone, 0)
    assert run(engine, subject()) == (alone, 68)


def test_a_conversation_reuses_prefilled_rows_bit_by_bit(session: Session) -> None:
    follow_up = request("subject", [*prompt(1, 70), *prompt(2, 20)], max_tokens=8, logprobs=1)
    engine = Engine(session, EngineConfig(deterministic=True))
    run(engine, subject())
    assert run(engine, follow_up) == (trace(session, [follow_up], prefix_cache=False), 70)


def scores(engine: Engine, one: Request, others: list[Request]) -> tuple[PromptTokenLogprobs, ...]:
    for each in (*others, one):
        engine.add(each)
    found: list[tuple[PromptTokenLogprobs, ...]] = []
    while engine.has_work:
        found += [event.scores for event in engine.step().events if isinstance(event, PromptEvent)]
    assert len(found) == 1
    return found[0]


def test_a_prompts_scores_are_the_models_own(session: Session) -> None:
    ids = prompt(5, 70)
    logits = session.prefill(0, np.array(ids), 0, len(ids)).copy()
    direct = log_softmax(logits[:-1])
    scored = request("subject", ids, max_tokens=2, prompt_logprobs=2)
    engine = Engine(session, EngineConfig(idle_prefill_chunk_tokens=48))
    alone = scores(engine, scored, [])
    assert [one.logprobs.logprob for one in alone] == pytest.approx(direct[range(69), ids[1:]], abs=1e-4)
    best = [[token for token, _ in one.logprobs.top] for one in alone]
    assert best == np.argsort(-logits[:-1], axis=1, kind="stable")[:, :2].tolist()
    assert scores(engine, scored, []) == alone  # its prefix lies in the cache by now
    assert scores(engine, scored, [request("other", ids, max_tokens=3), *crowd(3)]) == alone


def test_scoring_a_prompt_changes_no_answer(session: Session, alone: Trace) -> None:
    assert trace(session, [replace(subject(), prompt_logprobs=1)]) == alone
