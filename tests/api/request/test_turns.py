"""Turns for work on large texts: who goes first, what a client that leaves changes, how much may wait."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from api.request.turns import INLINE_BYTES, LARGE_BYTES, Turns, off_loop
from runtime.errors import Overloaded
from tests.api.scripted_server import running_server

LARGE, SMALL = 2 * LARGE_BYTES, 10_000


class Work:
    """Notes when it begins and ends when told to."""

    def __init__(self, begun: list[str]) -> None:
        self.begun = begun
        self.gates: dict[str, asyncio.Event] = {}

    def __call__(self, name: str) -> Callable[[], Coroutine[Any, Any, str]]:
        gate = self.gates[name] = asyncio.Event()

        async def run() -> str:
            self.begun.append(name)
            await gate.wait()
            return name

        return run


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def with_turns(test: Callable[[Turns, Work, list[str]], Coroutine[Any, Any, None]]) -> None:
    begun: list[str] = []
    asyncio.run(test(Turns(4 * LARGE, clock=lambda: 0.0), Work(begun), begun))


def test_small_work_goes_before_large_and_large_leaves_a_place() -> None:
    async def body(turns: Turns, work: Work, begun: list[str]) -> None:
        tasks = [asyncio.create_task(turns.take(LARGE, work(name))) for name in ("large 1", "large 2")]
        await settle()
        assert begun == ["large 1"]
        tasks += [asyncio.create_task(turns.take(size, work(f"small {size}"))) for size in (SMALL, SMALL - 1)]
        await settle()
        assert begun == ["large 1", f"small {SMALL}"]
        work.gates[f"small {SMALL}"].set()
        await settle()
        assert begun[2:] == [f"small {SMALL - 1}"]
        work.gates[f"small {SMALL - 1}"].set()
        await settle()
        assert begun[3:] == []  # a place is free, and stays so for small work
        work.gates["large 1"].set()
        await settle()
        assert begun[3:] == ["large 2"]
        work.gates["large 2"].set()
        assert await asyncio.gather(*tasks) == ["large 1", "large 2", f"small {SMALL}", f"small {SMALL - 1}"]
        assert turns.num_busy == 0

    with_turns(body)


def test_the_smallest_goes_first() -> None:
    async def body(turns: Turns, work: Work, begun: list[str]) -> None:
        sizes = {"a": SMALL, "b": SMALL, "larger": 4 * SMALL, "smaller": 2 * SMALL}
        tasks = [asyncio.create_task(turns.take(size, work(name))) for name, size in sizes.items()]
        await settle()
        work.gates["a"].set()
        await settle()
        assert begun == ["a", "b", "smaller"]
        for gate in work.gates.values():
            gate.set()
        await asyncio.gather(*tasks)

    with_turns(body)


def test_what_waits_long_goes_before_later_small_work() -> None:
    now = [0.0]

    async def body() -> None:
        begun: list[str] = []
        turns, work = Turns(4 * LARGE, clock=lambda: now[0]), Work(begun)
        tasks = [asyncio.create_task(turns.take(SMALL, work(name))) for name in ("a", "b", "early")]
        await settle()
        now[0] = 1.0
        tasks.append(asyncio.create_task(turns.take(SMALL // 2, work("late"))))
        await settle()
        work.gates["a"].set()
        await settle()
        assert begun == ["a", "b", "early"]
        for gate in work.gates.values():
            gate.set()
        await asyncio.gather(*tasks)

    asyncio.run(body())


def test_work_is_dropped_while_it_waits_and_keeps_its_turn_while_it_runs() -> None:
    async def body(turns: Turns, work: Work, begun: list[str]) -> None:
        running, waiting = (asyncio.create_task(turns.take(LARGE, work(name))) for name in ("running", "waiting"))
        await settle()
        running.cancel()
        waiting.cancel()
        await settle()
        assert running.cancelled()
        assert waiting.cancelled()
        assert turns.num_busy == 1
        after = asyncio.create_task(turns.take(LARGE, work("after")))
        await settle()
        assert begun == ["running"]
        work.gates["running"].set()
        work.gates["after"].set()
        assert await after == "after"
        assert begun == ["running", "after"]
        assert turns.num_busy == 0

    with_turns(body)


def test_a_turn_that_comes_as_its_client_leaves_is_passed_on() -> None:
    async def body(turns: Turns, work: Work, _begun: list[str]) -> None:
        first = asyncio.create_task(turns.take(LARGE, work("first")))
        second = asyncio.create_task(turns.take(LARGE, work("second")))
        await settle()
        work.gates["first"].set()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        second.cancel()
        await settle()
        third = asyncio.create_task(turns.take(LARGE, work("third")))
        work.gates["second"].set()
        work.gates["third"].set()
        assert await third == "third"
        await asyncio.gather(first, second, return_exceptions=True)
        await settle()
        assert turns.num_busy == 0

    with_turns(body)


def test_failures_pass_on_and_free_the_place() -> None:
    async def fail() -> str:
        raise ValueError("bad")

    async def body(turns: Turns, work: Work, _begun: list[str]) -> None:
        with pytest.raises(ValueError, match="bad"):
            await turns.take(LARGE, fail)
        work("next")
        work.gates["next"].set()
        assert turns.num_busy == 0

    with_turns(body)


def test_too_much_waiting_work_is_refused() -> None:
    async def body(turns: Turns, work: Work, _begun: list[str]) -> None:
        tasks = [asyncio.create_task(turns.take(LARGE, work(str(number)))) for number in range(5)]
        await settle()
        with pytest.raises(Overloaded, match=f"{4 * LARGE} bytes of large requests wait"):
            await turns.take(LARGE, work("one more"))
        small = asyncio.create_task(turns.take(SMALL, work("small")))
        work.gates["small"].set()
        assert await small == "small"
        tasks[4].cancel()
        await settle()
        tasks.append(asyncio.create_task(turns.take(LARGE, work("in its place"))))
        for gate in work.gates.values():
            gate.set()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert turns.num_busy == 0

    with_turns(body)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux knows priorities of threads")
def test_texts_are_read_behind_everything_else() -> None:
    own = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    with running_server() as server:
        loop = server.server._loop
        assert loop is not None

        def priority() -> int:
            return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

        found = {
            size: asyncio.run_coroutine_threadsafe(off_loop(size, priority), loop).result()
            for size in (INLINE_BYTES, INLINE_BYTES + 1)
        }
        assert found == {INLINE_BYTES: own, INLINE_BYTES + 1: min(own + 5, 19)}
        engine = next(thread for thread in threading.enumerate() if thread.name == "powertrain-engine")
        assert os.getpriority(os.PRIO_PROCESS, engine.native_id or 0) == own
        assert sys.getswitchinterval() < 0.001
