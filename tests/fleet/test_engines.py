"""The replicas as the front sees them, over doubles of a handle: how each of Ray's failures is told, and cancelled."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from api.errors import ModelFailedError
from fleet.errors import ReplicaLostError
from fleet.relay.wire import Piece, Reserve
from runtime.errors import EngineUnavailable, Overloaded, PackageError, TemplateError
from tests.fleet.ray_double import (
    BackPressureError,
    Handle,
    OnDoubles,
    RayActorError,
    RayError,
    RayServeException,
    RayTaskError,
    Response,
    all_of,
)
from tests.fleet.test_router import forwarded

FIRST, SECOND = Piece(), Piece(reserve=Reserve(num_prompt_tokens=1, max_generated=2))


def answered(on_doubles: OnDoubles, response: Response, begin_s: float = 60.0) -> list[Piece]:
    handle = Handle(response)
    engines = on_doubles.engines.RayEngines(handle, begin_s)
    request = forwarded(b"m")
    try:
        pieces: list[Piece] = asyncio.run(all_of(engines.answer(request)))
    finally:
        assert handle.asked == [request]
        assert response.cancelled  # whatever became of it, nobody works on it any more
    return pieces


def test_every_piece_is_passed_on(on_doubles: OnDoubles) -> None:
    assert answered(on_doubles, Response([FIRST, SECOND, SECOND])) == [FIRST, SECOND, SECOND]


@pytest.mark.parametrize("pieces", [[], [FIRST, SECOND]])
@pytest.mark.parametrize(
    ("fails", "told", "words"),
    [
        (BackPressureError("full"), Overloaded, "too many requests wait"),
        (RayActorError("pid 3, /home/x"), ReplicaLostError, "^RayActorError$"),
        (RayError("x"), ReplicaLostError, "RayError: x"),
        (RayServeException("gone"), ReplicaLostError, "RayServeException: gone"),
        (RayTaskError.of(ZeroDivisionError("fault")), ReplicaLostError, "fault"),
        (RayTaskError.of(PackageError("/models/one: broken")), ModelFailedError, r"^The model `one` is not available"),
        (RayTaskError.of(TemplateError("/models/one: line 3")), ModelFailedError, r"^The model `one` is not available"),
    ],
)
def test_failures_of_rays_are_told_as_ours(
    on_doubles: OnDoubles, pieces: list[Piece], fails: Exception, told: type[Exception], words: str
) -> None:
    with pytest.raises(told, match=words) as raised:
        answered(on_doubles, Response([*pieces], fails))
    assert type(raised.value) is told  # not one of Ray's that is both, whose text holds a trace


def test_a_request_that_no_replica_takes_ends_and_one_that_is_taken_may_last(on_doubles: OnDoubles) -> None:
    with pytest.raises(EngineUnavailable, match=r"within 0.001 s"):
        answered(on_doubles, Response([None]), begin_s=0.001)

    async def slow() -> list[Piece]:
        response = Response([FIRST, SECOND])
        pieces = on_doubles.engines.RayEngines(Handle(response), 0.001).answer(forwarded())
        found = [await anext(pieces)]
        await asyncio.sleep(0.002)  # the time is that to the first piece alone
        return [*found, *await all_of(pieces)]

    assert asyncio.run(slow()) == [FIRST, SECOND]


def test_who_stops_reading_cancels_the_call(on_doubles: OnDoubles) -> None:
    response = Response([FIRST, SECOND])

    async def run() -> None:
        pieces = on_doubles.engines.RayEngines(Handle(response), 60.0).answer(forwarded())
        assert await anext(pieces) == FIRST
        assert not response.cancelled
        await pieces.aclose()

    asyncio.run(run())
    assert response.cancelled


@pytest.mark.parametrize(
    ("ready", "told"),
    [(True, True), (False, False), (RayActorError(), False), (RayServeException(), False), (None, False)],
)
def test_ready_is_what_a_replica_says_in_time(
    on_doubles: OnDoubles, monkeypatch: pytest.MonkeyPatch, ready: Any, told: bool
) -> None:
    monkeypatch.setattr(on_doubles.engines, "_PROBE_S", 0.001 if ready is None else 60.0)
    assert asyncio.run(on_doubles.engines.RayEngines(Handle(ready=ready), 1.0).is_ready()) is told


@pytest.mark.parametrize(
    ("pages", "told"),
    [
        ([{"a": "1"}, RayActorError(), {"b": "2", "b-1": "3"}], {"a": "1", "b": "2", "b-1": "3"}),
        (RayServeException("no replicas"), {}),
        (TimeoutError("Timed out waiting for broadcast results."), {}),
        (RayActorError(), {}),
    ],
)
def test_pages_of_those_that_answer(on_doubles: OnDoubles, pages: Any, told: dict[str, str]) -> None:
    assert asyncio.run(on_doubles.engines.RayEngines(Handle(pages=pages), 1.0).metric_pages()) == told
