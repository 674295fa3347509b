"""The load generator in simulated time: exact moments, exact counts."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable

import pytest

from bench.http.arrivals import ArrivalPattern, Arrivals
from bench.http.endpoint import ChatOptions, Message, endpoint_from_url
from bench.http.http_client import HttpClient
from bench.http.load import LoadPlan, LoadRunner, Probe
from bench.http.workload import Conversation, RecordedWorkload, Turn, Workload
from bench.metrics.checks import run_checks
from bench.metrics.records import Outcome, Phase, RequestRecord
from bench.proof.mock_server import MockBehaviour, MockServer
from bench.proof.prove import simulate
from bench.proof.virtual_time import START_NS, MemoryNetwork, VirtualTimeLoop

MOCK = MockBehaviour(ttft_ms=100, itl_ms=10)  # an answer of 11 tokens takes 200 ms


def play(
    workload: Workload,
    plan: LoadPlan,
    behaviour: MockBehaviour = MOCK,
    beside: Callable[[LoadRunner], Awaitable[None]] | None = None,
) -> tuple[list[RequestRecord], MockServer, LoadRunner]:
    server = MockServer(behaviour)
    network = MemoryNetwork({("mock", 80): server.protocol})

    async def main(loop: VirtualTimeLoop) -> LoadRunner:
        client = HttpClient(endpoint_from_url("http://mock"), network.dial_to("mock", 80), loop.now_ns)
        runner = LoadRunner(client, ChatOptions(model="mock"), plan, workload, lambda _: None)
        other = asyncio.ensure_future(beside(runner)) if beside else None
        await runner.run()
        if other is not None:
            await other
        await client.close()
        return runner

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as loop:
        virtual = loop.get_loop()
        assert isinstance(virtual, VirtualTimeLoop)
        runner = loop.run(main(virtual))
    return runner.records, server, runner


def ms(moment_ns: int) -> float:
    return round((moment_ns - START_NS) / 1e6, 6)


ONE = RecordedWorkload((Conversation((Turn("hi there", 11),)),))


def test_closed_loop_keeps_its_concurrency() -> None:
    records, server, _ = play(ONE, LoadPlan(concurrency=2, request_count=5))

    assert [ms(r.sent_ns) for r in records] == [0, 0, 200, 200, 400]
    assert all(ms(r.end_ns) - ms(r.sent_ns) == 200 for r in records)
    assert [r.prompt_tokens for r in records] == [2] * 5
    assert [r.completion_tokens for r in records] == [11] * 5
    assert server.num_active == 0
    assert server.num_requests == 5


def test_ramp_up_spreads_the_first_requests() -> None:
    records, _, _ = play(ONE, LoadPlan(concurrency=4, request_count=4, ramp_s=0.08))
    assert [ms(r.sent_ns) for r in records] == [0, 20, 40, 60]


def test_warm_up_drains_first_and_cool_down_keeps_the_load_up() -> None:
    records, _, _ = play(ONE, LoadPlan(concurrency=2, request_count=4, warmup_count=3, cooldown_count=2))

    assert [(r.phase, ms(r.sent_ns)) for r in records] == [
        (Phase.WARMUP, 0),
        (Phase.WARMUP, 0),
        (Phase.WARMUP, 200),
        (Phase.MEASURED, 400),
        (Phase.MEASURED, 400),
        (Phase.MEASURED, 600),
        (Phase.MEASURED, 600),
        (Phase.COOLDOWN, 800),  # beside the one that ends last; after that one there is nothing to keep up
    ]


def test_open_loop_starts_on_time_whatever_the_server_does() -> None:
    plan = LoadPlan(arrivals=Arrivals(pattern=ArrivalPattern.CONSTANT, rate_per_s=20), request_count=5)
    records, _, _ = play(ONE, plan)
    assert [ms(r.sent_ns) for r in records] == [0, 50, 100, 150, 200]


def test_max_concurrency_makes_the_client_queue_and_says_so() -> None:
    arrivals = Arrivals(pattern=ArrivalPattern.CONSTANT, rate_per_s=20)
    records, _, _ = play(ONE, LoadPlan(arrivals=arrivals, request_count=3, max_concurrency=1))

    assert [ms(r.scheduled_ns) for r in records] == [0, 50, 100]
    assert [ms(r.sent_ns) for r in records] == [0, 200, 400]


def test_duration_stops_issuing_and_grace_bounds_the_rest() -> None:
    records, server, _ = play(ONE, LoadPlan(concurrency=1, duration_s=0.5, grace_s=0.05))

    assert [(r.outcome, ms(r.sent_ns)) for r in records] == [
        (Outcome.OK, 0),
        (Outcome.OK, 200),
        (Outcome.UNFINISHED, 400),
    ]
    assert ms(records[2].end_ns) == 550
    assert server.num_disconnects == 1


def test_turns_carry_the_endpoints_own_answers_as_history() -> None:
    talk = Conversation((Turn("a b c", 2), Turn("d", 2, think_s=0.5)), (Message("system", "s1 s2"),))
    records, _, _ = play(RecordedWorkload((talk,), repeat=False), LoadPlan(concurrency=1, request_count=2))

    assert [(r.session, r.turn) for r in records] == [(0, 0), (0, 1)]
    assert [r.prompt_tokens for r in records] == [5, 5 + 2 + 1]  # the mock's answer of two words is in the history
    assert ms(records[1].sent_ns) - ms(records[0].end_ns) == 500


def test_trace_is_replayed_at_its_times() -> None:
    items = tuple(Conversation((Turn("x", 1),), start_s=start) for start in (0.0, 0.03, 0.5))
    records, _, _ = play(RecordedWorkload(items, repeat=False), LoadPlan())
    assert [ms(r.sent_ns) for r in records] == [0, 30, 500]


def test_cancelled_requests_leave_and_are_counted_apart() -> None:
    plan = LoadPlan(concurrency=1, request_count=4, cancel_share=1.0, cancel_after_s=0.125)
    records, server, _ = play(ONE, plan)

    assert [r.outcome for r in records] == [Outcome.CANCELLED] * 4
    assert [len(r.chunk_ns) for r in records] == [3] * 4  # 100, 110 and 120 ms
    assert [ms(r.sent_ns) for r in records] == [0, 125, 250, 375]
    assert server.num_disconnects == 4


def test_max_errors_ends_the_run_and_marks_it() -> None:
    behaviour = MockBehaviour(ttft_ms=100, itl_ms=10, cut_after_chunks=2)
    records, _, runner = play(ONE, LoadPlan(concurrency=1, request_count=50, max_errors=3), behaviour)

    assert len(records) == 3
    assert runner.stop_reason == "stopped after 3 failed requests (--max-errors)"


def test_user_can_stop_and_keeps_what_was_measured() -> None:
    async def interrupt(runner: LoadRunner) -> None:
        await asyncio.sleep(0.45)
        runner.stop("interrupted", now=True)

    records, _, runner = play(ONE, LoadPlan(concurrency=1, request_count=50), beside=interrupt)

    assert [r.outcome for r in records] == [Outcome.OK, Outcome.OK, Outcome.UNFINISHED]
    assert runner.stop_reason == "interrupted"


def test_probe_runs_beside_the_load() -> None:
    plan = LoadPlan(concurrency=1, request_count=4, probe=Probe("long text here", 0.25))
    records, _, _ = play(ONE, plan)

    probes = [r for r in records if r.phase is Phase.PROBE]
    assert [ms(r.sent_ns) for r in probes] == [250, 600]  # 250 ms after the start and after each answer
    assert probes[0].prompt_tokens == 4


def test_checks_on_a_steady_run_and_on_one_with_a_tail() -> None:
    steady = simulate(MOCK, LoadPlan(concurrency=5, request_count=25), output_tokens=11)
    tail = simulate(MOCK, LoadPlan(concurrency=5, request_count=26), output_tokens=11)
    empty = [0.0] * 10

    import numpy as np

    for run, fine in ((steady, True), (tail, False)):
        checks = {c.key: c for c in run_checks(run.records, run.measurement, 5, np.array(empty))}
        assert checks["littles_law"].ok is fine
        assert checks["failures"].ok is True
        assert checks["drift"].value == pytest.approx(0.0, abs=1e-9)
    # 26 requests take 6 rounds of 200 ms: measured 26 * 11 / 1.2 s, predicted 5 * 11 / 0.2 s.
    checks = {c.key: c for c in run_checks(tail.records, tail.measurement, 5, np.array(empty))}
    assert checks["littles_law"].value == pytest.approx((275 - 238.3333) / 238.3333, rel=1e-4)
    assert "--cooldown-request-count" in checks["littles_law"].detail


def test_cool_down_keeps_throughput_and_littles_law_exact_where_a_tail_would_not() -> None:
    # 5 users whose answers take 200 ms; 26 requests leave one alone in the sixth round unless others fill it.
    plan = LoadPlan(concurrency=5, request_count=26, cooldown_count=4)
    run = simulate(MOCK, plan, output_tokens=11)

    totals = run.measurement.totals
    assert run.measurement.outcomes["ok"] == 26
    assert totals["duration"] == pytest.approx(1.2)
    assert totals["concurrency"] == pytest.approx(5.0)
    assert totals["output_tps"] == pytest.approx(5 * 11 / 0.2)
    assert totals["request_tps"] == pytest.approx(25.0)
    # Of a cool-down request that goes on beyond the window only the tokens inside count: staggered starts.
    plan = LoadPlan(concurrency=2, request_count=2, cooldown_count=2, ramp_s=0.1)
    totals = simulate(MOCK, plan, output_tokens=11).measurement.totals
    # Sent at 0 and 50 ms, ended at 200 and 250 ms; one more ran from 200 ms and had shown nothing by 250 ms.
    assert totals["duration"] == pytest.approx(0.25)
    assert totals["output_tps"] == pytest.approx(22 / 0.25)
    assert totals["concurrency"] == pytest.approx(0.45 / 0.25)


def test_every_fault_is_named_and_never_enters_the_latencies() -> None:
    cases = {
        "cut": MockBehaviour(cut_after_chunks=3),
        "stream_error": MockBehaviour(error_after_chunks=3),
        "not_streaming": MockBehaviour(stream=False),
        "http_404": MockBehaviour(model="other"),
        "http_429": MockBehaviour(max_concurrency=1),
    }
    for kind, behaviour in cases.items():
        result = simulate(behaviour, LoadPlan(concurrency=2, request_count=6), output_tokens=5)
        kinds = Counter(r.error_kind for r in result.records if r.outcome is Outcome.FAILED)
        assert set(kinds) == {kind}
        assert result.measurement.outcomes["failed"] == kinds[kind]
        if kind == "http_429":
            assert result.measurement.outcomes["ok"] > 0
        else:
            assert "ttft" not in result.measurement.distributions
