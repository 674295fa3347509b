"""Class K, overload: who is accepted is served soon, who is not is told at once, and nothing is left afterwards.

Repeats the cause of vLLM's CVE-2026-9540 and of Triton's CVE-2025-33201: work that is accepted without a bound on what
it makes everybody wait. The rule runs in simulated time, where every number is the same on every machine; the same
rule is then met over a real socket. ``python -m tests.security.measure_overload`` measures a real model.
"""

from __future__ import annotations

import concurrent.futures
from typing import Any

import pytest

from runtime.engine.admission import Admission
from runtime.engine.config import EngineConfig
from runtime.errors import Overloaded
from runtime.events import FinishEvent, FinishReason, Timing, TokenEvent
from tests.api.refusals import refused
from tests.api.scripted_server import running_server, user
from tests.runtime.engine_driver import request
from tests.security.simulated_load import simulate

_S = 1_000_000_000
LIMIT_S = 2.0
SLOTS_ARE_SHORT: dict[str, Any] = {}
ARITHMETIC_IS_SHORT: dict[str, Any] = {"num_slots": 16, "prompt_tokens": (150, 200), "max_tokens": (2, 6)}


@pytest.mark.parametrize("kind", [SLOTS_ARE_SHORT, ARITHMETIC_IS_SHORT], ids=["slots", "arithmetic"])
def test_at_three_times_the_capacity_the_accepted_do_not_notice(kind: dict[str, Any]) -> None:
    unbounded = EngineConfig(max_queue=10**6)
    flood = simulate(100, 3, unbounded, **kind)
    capacity = flood.num_finished / flood.end_s
    config = EngineConfig(max_predicted_wait_s=LIMIT_S, max_queue_time_s=2 * LIMIT_S)
    full = simulate(capacity, 20, config, **kind)
    over = simulate(3 * capacity, 20, config, **kind)
    assert over.ttft_quantile(0.99) <= 2 * full.ttft_quantile(0.99)
    assert over.ttft_quantile(0.99) <= 1.5 * LIMIT_S
    assert over.num_finished / over.end_s > 0.9 * capacity  # refusing leaves no slot idle
    assert over.num_expired == 0  # what was accepted is served
    assert len(over.retry_after_s) > len(over.ttft_s)
    assert min(over.retry_after_s) >= 1
    assert over.end_s < 20 + 2 * LIMIT_S
    assert over.wait_at_end_s == 0
    assert simulate(3 * capacity, 8, unbounded, **kind).ttft_quantile(0.99) > 4 * over.ttft_quantile(0.99)


def _admission(now: list[int], **config: Any) -> Admission:
    admission = Admission(EngineConfig(**config), lambda: now[0])
    admission.num_slots = 2
    return admission


def _finish(name: str, admitted_s: float, finish_s: float) -> FinishEvent:
    timing = Timing(1, int(admitted_s * _S), int(admitted_s * _S), int(finish_s * _S))
    return FinishEvent(name, 0, FinishReason.LENGTH, None, 8, 0, timing)


def test_a_slot_frees_every_residence_over_slots() -> None:
    now = [10 * _S]
    admission = _admission(now, max_predicted_wait_s=5.0)
    admission.accept(request("first", [1] * 4))
    admission.note_events([TokenEvent("first", 0, 1, None, 1), _finish("first", 4, 10)])  # 6 s in its slot
    for name in "ab":
        admission.check()
        admission.accept(request(name, [1] * 4))
        admission.note_events([TokenEvent(name, 0, 1, None, now[0])])
    assert admission.predicted_wait_s() == 3.0  # one of two slots, each held 6 s
    admission.check()
    admission.accept(request("c", [1] * 4))
    assert admission.predicted_wait_s() == 6.0
    with pytest.raises(Overloaded, match=r"would wait about 6.0 s to begin, the limit is 5 s; try again in 1 s") as one:
        admission.check()
    assert one.value.retry_after_s == 1
    now[0] = 30 * _S  # those that run have done so for 20 s: longer than anything before
    with pytest.raises(Overloaded, match=r"about 20.0 s") as other:
        admission.check()
    assert other.value.retry_after_s == 15


def test_prompts_are_computed_at_the_measured_rate() -> None:
    admission = _admission([0], max_predicted_wait_s=5.0)
    admission.num_slots = 8
    admission.accept(request("first", [1] * 1000))
    assert admission.predicted_wait_s() == 0  # nothing is known yet
    admission.note_step(1000, 2 * _S)
    admission.note_events([TokenEvent("first", 0, 1, None, 1)])
    assert admission.predicted_wait_s() == 0
    admission.accept(request("second", [1] * 2000))
    assert admission.predicted_wait_s() == 4.0
    admission.note_step(500, _S)
    assert admission.predicted_wait_s() == pytest.approx(1500 * 3 / 1000)
    admission.accept(request("third", [1] * 500))
    with pytest.raises(Overloaded):
        admission.check()
    admission.note_abort("third", None)  # its client left: nobody waits for it any more
    admission.check()
    admission.note_abort("second", None)
    assert admission.predicted_wait_s() == 0


def test_cached_parts_of_prompts_make_the_rate_higher() -> None:
    admission = _admission([0])
    admission.num_slots = 8
    admission.accept(request("first", [1] * 1000))
    admission.note_step(10, _S)  # 990 tokens came from the cache
    admission.note_events([TokenEvent("first", 0, 1, None, 1)])
    admission.accept(request("second", [1] * 1000))
    assert admission.predicted_wait_s() == 1.0


def test_those_that_left_do_not_count() -> None:
    admission = _admission([10 * _S], max_predicted_wait_s=1.0, max_queue=100)
    admission.accept(request("first", [1] * 4))
    admission.note_events([TokenEvent("first", 0, 1, None, 1), _finish("first", 4, 10)])
    for number in range(50):
        admission.accept(request(f"r{number}", [1] * 4))
    with pytest.raises(Overloaded):
        admission.check()
    for number in range(50):
        admission.note_abort(f"r{number}", None)
    admission.check()
    assert admission.num_choices == 50  # until the engine has seen it


def test_a_wait_beyond_the_limit_is_429_at_once_and_before_the_body_is_read() -> None:
    with running_server(max_predicted_wait_s=0.05) as server:
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            running = [pool.submit(server.chat, "*ab", max_tokens=150) for _ in range(4)]
            server.wait_for(lambda: server.service.engine.stats().num_running == 4)
            server.gate.open.clear()

            def is_refused() -> bool:
                return server.post(b"no JSON").status_code == 429

            server.wait_for(is_refused)  # as soon as those that run have done so for 0.2 s
            response = server.post({"messages": [user("x")]})
            assert int(response.headers["retry-after"]) >= 1
            error = refused(server, {"prompt": "x"}, 429, path="/v1/completions")
            assert error["type"] == "RateLimitError"
            assert "the limit is 0.05 s" in error["message"]
            assert server.get("/v1/health/ready").status_code == 200
            assert server.post({"prompt": "x"}, "/tokenize").status_code == 200  # needs no engine
            assert server.metric("request_refused_total", code="429") >= 3
            server.gate.open.set()
            assert {one.result()["usage"]["completion_tokens"] for one in running} == {150}
        server.wait_idle()
        assert server.chat("again")["choices"][0]["message"]["content"] == "again"


def test_without_a_limit_everybody_waits() -> None:
    with running_server(max_predicted_wait_s=0, max_queue_time_s=0) as server:
        assert server.service.engine._config.max_predicted_wait_s is None
        assert server.service.engine._config.max_queue_time_s is None
        with concurrent.futures.ThreadPoolExecutor(12) as pool:
            answers = [pool.submit(server.chat, "*ab", max_tokens=50) for _ in range(12)]
            assert {answer.result()["usage"]["completion_tokens"] for answer in answers} == {50}
