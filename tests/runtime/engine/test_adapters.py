"""Each sequence is computed with its own adapter wherever it lies, and no cached row crosses from one to another."""

from __future__ import annotations

from dataclasses import replace

import pytest

from runtime.engine.config import EngineConfig
from runtime.engine.engine import Engine
from runtime.events import FinishEvent, TokenEvent
from runtime.request import Request
from runtime.session.nvtx_session import NvtxSession
from tests.adapting_session import AdaptingSession, named_adapter
from tests.fakes import ScriptedSession
from tests.runtime.engine_driver import request

ONE, TWO = named_adapter("one"), named_adapter("two")
PROMPT = list(range(101, 151))


def letters(history: list[int]) -> int:
    """Small letters in order, by the length of the history."""
    return ord("a") + len(history) % 26


def run(engine: Engine, *requests: Request) -> dict[str, tuple[bytes, int]]:
    """Each request's answer, and how many of its prompt's tokens came from the cache."""
    for one in requests:
        engine.add(one)
    texts = {one.request_id: bytearray() for one in requests}
    cached = dict.fromkeys(texts, -1)
    while engine.has_work:
        for event in engine.step().events:
            if isinstance(event, TokenEvent):
                texts[event.request_id].append(event.token_id)
            elif isinstance(event, FinishEvent):
                assert event.error is None
                cached[event.request_id] = event.num_cached_tokens
    return {name: (bytes(text), cached[name]) for name, text in texts.items()}


def test_a_mixed_batch_keeps_each_sequence_to_its_adapter_through_moves() -> None:
    session = AdaptingSession(letters, num_slots=5)
    engine = Engine(session, EngineConfig(copy_bytes_per_step=16))
    requests = [
        request("base", PROMPT[:20], max_tokens=40),
        replace(request("short", PROMPT[:30], max_tokens=3), adapter=TWO),
        replace(request("one", PROMPT, max_tokens=40), adapter=ONE),
        request("brief", PROMPT[:25], max_tokens=5),
        replace(request("two", PROMPT[:40], max_tokens=40), adapter=TWO),
    ]
    found = run(engine, *requests)
    assert session.count("copy") > 0  # what ended left holes, and ends of the range moved into them
    assert found["base"][0].islower()
    assert found["one"][0].isupper()
    assert found["two"][0].isupper()
    for one in requests:
        fresh = Engine(AdaptingSession(letters, num_slots=5), EngineConfig())
        assert run(fresh, one)[one.request_id][0] == found[one.request_id][0]


def test_cached_rows_are_shared_within_an_adapter_and_never_across() -> None:
    engine = Engine(AdaptingSession(letters, num_slots=8), EngineConfig())
    again = [*PROMPT, 7, 8]
    assert run(engine, request("base", PROMPT))["base"][1] == 0
    assert run(engine, replace(request("one", again), adapter=ONE))["one"][1] == 0
    assert run(engine, replace(request("two", again), adapter=TWO))["two"][1] == 0
    assert run(engine, replace(request("one", again), adapter=ONE))["one"][1] == len(PROMPT)
    assert run(engine, replace(request("same", again), adapter=replace(ONE, name="same files")))["same"][1] > 0
    assert run(engine, request("base", again))["base"][1] == len(PROMPT)


def test_no_salt_of_a_client_reads_an_adapters_rows() -> None:
    one = replace(request("one", PROMPT), adapter=ONE, cache_salt="mine")
    assert one.rows_salt != replace(request("one", PROMPT), cache_salt="mine").rows_salt
    assert request("base", PROMPT).rows_salt == ""
    assert one.rows_salt.startswith("\n")  # a client's begins with its key's name or a colon


def test_a_session_that_takes_none_never_answers_as_the_base() -> None:
    for session in (ScriptedSession(letters), NvtxSession(ScriptedSession(letters), None)):
        engine = Engine(session, EngineConfig())
        engine.add(replace(request("one", PROMPT), adapter=ONE))
        with pytest.raises(ValueError, match="adapter"):
            engine.step()


def test_a_session_under_a_profiler_is_told() -> None:
    inner = AdaptingSession(letters)
    NvtxSession(inner, None).set_adapter(2, ONE)
    assert inner.adapters == [None, None, ONE, None]
