"""Engine thread and event loop together: queue limit, abort, death, hang, drain and close."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass, replace
from types import SimpleNamespace

import pytest

import runtime.engine.async_engine
from runtime.engine.async_engine import AsyncEngine, EngineState, EventStream
from runtime.engine.config import EngineConfig
from runtime.errors import EngineUnavailable, Overloaded
from runtime.events import FinishEvent, FinishReason, TokenEvent
from runtime.session.session import SessionInfo
from tests.fakes import Call, ScriptedSession, adding
from tests.runtime.async_driver import WARM_UP_CALLS, Gate, with_engine
from tests.runtime.engine_driver import adding_reply, request
from tests.runtime.scripted_constraint import ScriptedConstraint


async def collect(stream: EventStream) -> tuple[list[int], list[FinishReason]]:
    tokens, ends = [], []
    async for events in stream:
        tokens += [event.token_id for event in events if isinstance(event, TokenEvent)]
        ends += [event.reason for event in events if isinstance(event, FinishEvent)]
    return tokens, ends


def test_concurrent_requests_get_their_own_tokens() -> None:
    async def body(engine: AsyncEngine, _session: ScriptedSession) -> None:
        streams = [engine.submit(request(f"r{i}", [i, i + 1], max_tokens=5 + i)) for i in range(12)]
        for i, (tokens, ends) in enumerate(await asyncio.gather(*map(collect, streams))):
            assert tokens == adding_reply([i, i + 1], 5 + i)
            assert ends == [FinishReason.LENGTH]
        assert engine.num_live == 0
        assert engine.stats().num_running == engine.stats().num_waiting == 0

    with_engine(body)


def test_a_full_queue_refuses_and_accepts_again_when_a_place_frees() -> None:
    gate = Gate(free=WARM_UP_CALLS)

    async def body(engine: AsyncEngine, _session: ScriptedSession) -> None:
        running = engine.submit(request("a", [1, 2], max_tokens=2))
        await asyncio.to_thread(gate.reached.wait, 60)
        waiting = engine.submit(request("b", [3, 4], max_tokens=2))
        with pytest.raises(Overloaded, match=r"1 choices are running and 1 are waiting, the limit is 1"):
            engine.submit(request("c", [5, 6]))
        gate.opened.set()
        assert (await collect(running))[0] == adding_reply([1, 2], 2)
        assert (await collect(engine.submit(request("d", [5, 6], max_tokens=2))))[0] == adding_reply([5, 6], 2)
        assert (await collect(waiting))[0] == adding_reply([3, 4], 2)

    with_engine(body, ScriptedSession(adding, num_slots=1, before_call=gate), max_queue=1)


def test_abort_ends_the_stream_once() -> None:
    gate = Gate(free=WARM_UP_CALLS + 3)

    async def body(engine: AsyncEngine, session: ScriptedSession) -> None:
        stream = engine.submit(request("a", [1, 2], max_tokens=200, n=2))
        await asyncio.to_thread(gate.reached.wait, 60)
        stream.abort()
        stream.abort()
        gate.opened.set()
        assert (await collect(stream))[1] == [FinishReason.ABORT, FinishReason.ABORT]
        decodes = session.count("decode")
        assert (await collect(engine.submit(request("b", [3], max_tokens=1))))[0] == [3]
        assert session.count("decode") == decodes

    with_engine(body, ScriptedSession(adding, before_call=gate))


def test_one_choice_can_be_dropped_while_the_others_go_on() -> None:
    gate = Gate(free=WARM_UP_CALLS + 6)

    async def body(engine: AsyncEngine, _session: ScriptedSession) -> None:
        stream = engine.submit(request("a", [1, 2], max_tokens=60, n=2))
        await asyncio.to_thread(gate.reached.wait, 60)
        stream.abort(0)
        gate.opened.set()
        ends = {event.index: event async for events in stream for event in events if isinstance(event, FinishEvent)}
        assert (ends[0].reason, ends[1].reason) == (FinishReason.ABORT, FinishReason.LENGTH)
        assert ends[0].num_generated < 10

    with_engine(body, ScriptedSession(adding, before_call=gate))


def test_a_load_failure_is_told_and_nothing_is_accepted() -> None:
    def cannot_load() -> ScriptedSession:
        raise OSError("the graph is not there")

    async def body() -> None:
        engine = AsyncEngine(cannot_load, EngineConfig())
        engine.start()
        with pytest.raises(EngineUnavailable, match="OSError: the graph is not there"):
            await engine.wait_ready()
        assert engine.state is EngineState.DEAD
        with pytest.raises(EngineUnavailable):
            engine.submit(request("a", [1]))
        await engine.close()

    asyncio.run(body())


def test_closing_does_not_wait_for_a_model_that_loads() -> None:
    loading, may_load = threading.Event(), threading.Event()
    session = ScriptedSession(adding)

    def load_slowly() -> ScriptedSession:
        loading.set()
        assert may_load.wait(30)
        return session

    async def body() -> AsyncEngine:
        engine = AsyncEngine(load_slowly, EngineConfig())
        engine.start()
        assert await asyncio.to_thread(loading.wait, 30)
        await engine.close()
        assert engine.is_loading
        return engine

    engine = asyncio.run(body())
    may_load.set()
    engine._worker._thread.join(30)
    assert session.closed
    assert not session.calls  # what was loaded in vain is not warmed up


def test_the_engine_is_ready_only_after_a_real_generation() -> None:
    gate = Gate(free=1)
    session = ScriptedSession(adding, before_call=gate)

    async def body() -> None:
        engine = AsyncEngine(lambda: session, EngineConfig())
        engine.start()
        await asyncio.to_thread(gate.reached.wait, 60)
        assert engine.state is EngineState.LOADING
        gate.opened.set()
        await engine.wait_ready()
        assert [call.kind for call in session.calls] == ["prefill", "decode", "decode"]
        await engine.close()

    asyncio.run(body())


def test_a_hang_ends_the_waiting_requests_and_shows_as_dead() -> None:
    gate = Gate(free=WARM_UP_CALLS)

    async def body(engine: AsyncEngine, _session: ScriptedSession) -> None:
        events = [event async for some in engine.submit(request("a", [1, 2], n=2)) for event in some]
        ends = [(event.request_id, event.index, event.reason) for event in events if isinstance(event, FinishEvent)]
        assert ends == [("a", 0, FinishReason.ERROR), ("a", 1, FinishReason.ERROR)]
        assert len(events) == 2
        assert engine.state is EngineState.DEAD
        assert "no progress for 0.02 s" in str(engine.failure)
        await engine.close()
        gate.opened.set()
        engine._worker.close(timeout_s=60)

    with_engine(body, ScriptedSession(adding, before_call=gate), watchdog_s=0.02)


def test_when_the_engine_dies_every_request_ends_seen_or_not() -> None:
    gate, constraint = Gate(free=WARM_UP_CALLS + 3), ScriptedConstraint(lambda _: set(range(500)))

    def die_at_the_gate(call: Call) -> None:
        gate(call)
        if gate.opened.is_set():
            raise ZeroDivisionError("a fault of ours")

    async def body(engine: AsyncEngine, _session: ScriptedSession) -> None:
        seen = engine.submit(request("seen", [1, 2], max_tokens=60, constraint=constraint))
        await asyncio.to_thread(gate.reached.wait, 60)
        unseen = engine.submit(request("unseen", [3, 4], n=2, constraint=constraint))
        gate.opened.set()
        for stream, count in ((seen, 1), (unseen, 2)):
            ends = [event async for some in stream for event in some if isinstance(event, FinishEvent)]
            assert [(end.index, end.reason) for end in ends] == [(i, FinishReason.ERROR) for i in range(count)]
            assert {end.error for end in ends} == {"ZeroDivisionError: a fault of ours"}
        assert engine.state is EngineState.DEAD
        assert engine.failure == "ZeroDivisionError: a fault of ours"
        assert [matcher.state for matcher in constraint.matchers] == ["closed"]

    with_engine(body, ScriptedSession(adding, before_call=die_at_the_gate))


def test_drain_finishes_what_runs_and_refuses_the_rest() -> None:
    gate = Gate(free=WARM_UP_CALLS + 3)

    async def body(engine: AsyncEngine, _session: ScriptedSession) -> None:
        stream = engine.submit(request("a", [1, 2], max_tokens=60))
        drained = asyncio.create_task(engine.drain(60.0))
        await asyncio.to_thread(gate.reached.wait, 60)
        assert engine.state is EngineState.DRAINING
        with pytest.raises(EngineUnavailable, match="draining"):
            engine.submit(request("b", [3]))
        assert not drained.done()
        gate.opened.set()
        assert await collect(stream) == (adding_reply([1, 2], 60), [FinishReason.LENGTH])
        await drained

    with_engine(body, ScriptedSession(adding, before_call=gate))


def test_drain_aborts_what_is_left_after_the_grace() -> None:
    gate = Gate(free=WARM_UP_CALLS + 3)

    async def body(engine: AsyncEngine, _session: ScriptedSession) -> None:
        stream = engine.submit(request("a", [1, 2], max_tokens=250))
        await asyncio.to_thread(gate.reached.wait, 60)
        await engine.drain(0.0)
        gate.opened.set()
        tokens, ends = await collect(stream)
        assert ends == [FinishReason.ABORT]
        assert tokens == adding_reply([1, 2], 4)  # the call in hand is the last

    with_engine(body, ScriptedSession(adding, before_call=gate))


def test_close_ends_unfinished_requests() -> None:
    gate, constraint = Gate(free=WARM_UP_CALLS + 2), ScriptedConstraint(lambda _: set(range(500)))

    async def body(engine: AsyncEngine, _session: ScriptedSession) -> None:
        stream = engine.submit(request("a", [1, 2], max_tokens=200, constraint=constraint))
        await asyncio.to_thread(gate.reached.wait, 60)
        closing = asyncio.create_task(engine.close())
        gate.opened.set()
        await closing
        assert (await collect(stream))[1] == [FinishReason.ABORT]
        assert [matcher.state for matcher in constraint.matchers] == ["closed"]

    with_engine(body, ScriptedSession(adding, before_call=gate))


@dataclass
class CoreSession(ScriptedSession):
    """Says that it computes on the cores that the event loop's thread wants, too."""

    @property
    def info(self) -> SessionInfo:
        return replace(super().info, backend="cpu")


@pytest.mark.parametrize("session_type", [CoreSession, ScriptedSession])
def test_only_first_tokens_are_handed_on_before_the_next_step(
    session_type: type[ScriptedSession], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the cores of the loop: elsewhere the device does not wait. Later tokens are never waited for."""
    waits: list[float | None] = []
    read: list[int] = []
    read_before_call: list[int] = []
    read_when_handed_on: list[int] = []

    class Handed(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            waits.append(timeout)
            return super().wait(60)

        def set(self) -> None:
            read_when_handed_on.append(len(read))
            super().set()

    module = runtime.engine.async_engine
    monkeypatch.setattr(module, "threading", SimpleNamespace(Event=Handed))
    session = session_type(adding, before_call=lambda _call: read_before_call.append(len(read)))

    async def body(engine: AsyncEngine, _session: ScriptedSession) -> None:
        for name in ("a", "b", "a"):  # an id that comes again begins anew
            read.clear()
            del read_before_call[:]
            async for events in engine.submit(request(name, [1, 2], max_tokens=6)):
                read.extend(event.token_id for event in events if isinstance(event, TokenEvent))
            assert read == adding_reply([1, 2], 6)
            if session_type is CoreSession:
                assert read_before_call[:2] == [0, 1]  # the prompt, and a step with the first token read

    with_engine(body, session)
    num_waits = 3 if session_type is CoreSession else 0
    assert waits == [module._HAND_OVER_S] * num_waits
    assert read_when_handed_on == [1] * num_waits


def test_a_reader_that_is_slow_or_gives_up_finds_all_events() -> None:
    async def body() -> None:
        stream = EventStream(request("r", [1]), lambda _id, _index: None)
        for ids in ((1, 2), (3, 4)):
            reader = asyncio.ensure_future(anext(stream))
            await asyncio.sleep(0)
            for token_id in ids:  # the second before the reader that the first one woke runs
                stream.push([TokenEvent("r", 0, token_id, None)])
            assert [event.token_id for event in await reader if isinstance(event, TokenEvent)] == list(ids)
        reader = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(0)
        reader.cancel()
        await asyncio.sleep(0)
        stream.push([TokenEvent("r", 0, 5, None)])
        assert len(await anext(stream)) == 1

    asyncio.run(body())
