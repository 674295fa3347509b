"""Contract cases 88 to 92 and 96 to 100: loading, management, metrics, a full queue, draining, crowds."""

from __future__ import annotations

import asyncio
import concurrent.futures
import hashlib
import time
from typing import Any

import openai
import pytest
from prometheus_client.parser import text_string_to_metric_families

from runtime.errors import DeviceLost
from tests.api.scripted_server import NAMES, RunningServer, content_of, running_server, user
from tests.fakes import Call


def test_case_088_probes_while_loading() -> None:
    with running_server(gate_open=False, wait_for="/v1/health/live") as server:
        live = server.get("/v1/health/live")
        assert live.json() == {"object": "health.response", "message": "Service is live."}
        response = server.get("/v1/health/ready")
        assert response.status_code == 503
        assert int(response.headers["retry-after"]) >= 1
        assert response.json()["error"]["type"] == "ServiceUnavailableError"
        chat = server.post({"messages": [user("x")]})
        assert (chat.status_code, chat.json()["error"]["code"]) == (503, 503)
        assert server.get("/v1/models").status_code == 200
        # What would hold up every stream when the first constraint comes is built meanwhile.
        server.wait_for(lambda: server.service.model.compiler._table is not None)
        server.gate.open.set()
        server.wait_for(lambda: server.get("/v1/health/ready").status_code == 200)
        ready = server.get("/v1/health/ready/")
        assert ready.json() == {"object": "health.response", "message": "Service is ready."}
        assert server.chat("x")["choices"][0]["message"]["content"] == "x"


def test_case_088_live_answers_while_a_step_runs() -> None:
    with running_server() as server:
        server.gate.open.clear()
        server.gate.reached.clear()
        with concurrent.futures.ThreadPoolExecutor(32) as pool:
            streams = [pool.submit(server.stream, "abc") for _ in range(32)]
            assert server.gate.reached.wait(10)
            for _ in range(5):
                assert server.get("/v1/health/live").status_code == 200
            server.gate.open.set()
            assert {content_of(stream.result()) for stream in streams} == {"abc"}


def test_a_server_whose_model_cannot_be_loaded_exits() -> None:
    with running_server(wait_for=None, load_error="weights are missing") as server:
        server.wait_for(lambda: server.server.should_exit)
        assert server.service.engine.failure == "RuntimeError: weights are missing"


def test_an_engine_that_lost_its_device_is_503_and_its_words_stay_inside() -> None:
    def lose(_call: Call) -> None:
        raise DeviceLost("broken at /secret/path")

    with running_server() as server:
        server.session.before_call = lose
        assert server.post({"messages": [user("abc")]}).status_code in {500, 503}
        server.wait_for(lambda: server.service.engine.failure is not None)
        probes = [server.get(f"/v1/health/{name}") for name in ("live", "ready")]
        for response in (*probes, server.post({"messages": [user("abc")]})):
            assert response.status_code == 503
            assert "retry-after" in response.headers
            assert "/secret" not in response.text
        failures = server.metric("request_failure_total")
        assert server.post({"input": "abc"}, "/v1/responses").status_code == 503
        assert server.metric("request_failure_total") == failures + 1


def test_a_hung_engine_is_not_live_until_it_moves_again() -> None:
    with running_server(watchdog_s=1.0) as server:
        assert server.chat("abc")["choices"][0]["message"]["content"] == "abc"
        server.gate.open.clear()
        assert server.post({"messages": [user("abc")]}).status_code == 500
        for name in ("live", "ready"):
            response = server.get(f"/v1/health/{name}")
            assert (response.status_code, response.json()["error"]["type"]) == (503, "ServiceUnavailableError")
        server.gate.open.set()
        server.wait_for(lambda: server.get("/v1/health/live").status_code == 200)
        assert server.chat("abc")["choices"][0]["message"]["content"] == "abc"


def test_case_090_models(server: RunningServer) -> None:
    listed = server.get("/v1/models/").json()
    assert listed["object"] == "list"
    base, alias = listed["data"]
    permission = base.pop("permission")[0]
    assert base == {
        "id": NAMES[0],
        "object": "model",
        "created": 1_700_000_000,
        "owned_by": "system",
        "root": NAMES[0],
        "parent": None,
        "max_model_len": 256,
    }
    assert permission["id"].startswith("modelperm-")
    assert len(permission) == 12
    assert (alias["id"], alias["root"]) == (NAMES[1], NAMES[0])
    with server.openai as client:
        assert [model.id for model in client.models.list()] == list(NAMES)
        assert client.models.retrieve(NAMES[0]).id == NAMES[0]  # the SDK sends the slash as %2F
        with pytest.raises(openai.NotFoundError):
            client.models.retrieve("no/such")
    assert server.get(f"/v1/models/{NAMES[0]}").json()["id"] == NAMES[0]


def test_case_091_management(server: RunningServer) -> None:
    version = server.get("/v1/version").json()
    assert set(version) == {"release", "api"}
    assert server.get("/version").json() == {"version": version["release"]}
    metadata = server.get("/v1/metadata").json()
    assert metadata["modelInfo"][0]["shortName"].split(":")[0] == NAMES[0]
    assert set(metadata) == {"version", "assetInfo", "licenseInfo", "modelInfo"}
    found = server.get("/v1/license").json()
    assert found["sha"] == hashlib.sha1(found["content"].encode()).hexdigest()  # noqa: S324
    assert found["size"] == len(found["content"])
    assert set(found) == {"name", "path", "sha", "size", "url", "type", "content"}
    assert "manifest_file" in server.get("/v1/manifest").json()


def _samples(server: RunningServer) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    page = server.get("/v1/metrics").text
    families = text_string_to_metric_families(page)
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


def test_case_092_metrics() -> None:
    with running_server(vllm_metrics=True) as server:
        for index in range(3):
            server.chat("abcd", stream=False) if index % 2 else server.stream("abcd")
        server.chat("abcdef", max_tokens=2, n=2)
        assert server.post({"messages": [user("!0:x")]}).status_code == 500
        assert server.post({"messages": []}).status_code == 400
        server.wait_idle()
        samples = _samples(server)
    name = ("model_name", NAMES[0])

    def value(metric: str, *labels: tuple[str, str]) -> float:
        return samples[metric, tuple(sorted((name, *labels)))]

    prompt, generated = 23, 5
    for prefix in ("", "vllm:"):
        assert value(f"{prefix}prompt_tokens_total") == 3 * prompt + 25 + 23
        assert value(f"{prefix}generation_tokens_total") == 3 * generated + 4
        assert value(f"{prefix}request_failure_total") == 1
        assert value(f"{prefix}time_to_first_token_seconds_count") == 4
        assert value(f"{prefix}e2e_request_latency_seconds_count") == 4
        assert value(f"{prefix}num_requests_running") == 0
        assert value(f"{prefix}num_requests_waiting") == 0
        assert value(f"{prefix}request_finish_total", ("finished_reason", "stop")) == 3
        assert value(f"{prefix}request_finish_total", ("finished_reason", "length")) == 2
    assert value("request_success_total") == 4
    assert value("vllm:request_success_total", ("finished_reason", "stop")) == 3
    assert value("vllm:request_success_total", ("finished_reason", "length")) == 1
    assert value("vllm:request_prefill_time_seconds_count") == 4
    assert value("vllm:request_inference_time_seconds_count") == 4
    gaps = 3 * (generated - 1) + 2 * 1
    assert value("time_per_output_token_seconds_count") == gaps
    assert value("vllm:inter_token_latency_seconds_count") == gaps
    assert value("request_prompt_tokens_bucket", ("le", "50.0")) == 4
    assert value("request_generation_tokens_bucket", ("le", "2.0")) == 0
    assert value("request_refused_total", ("code", "400")) == 1
    assert value("gpu_cache_usage_perc") == 0
    assert value("vllm:num_preemptions_total") == 0
    assert value("vllm:iteration_tokens_total_sum") == 3 * (prompt + generated) + 2 * (25 + 2)  # a prompt per choice
    assert value("vllm:iteration_tokens_total_bucket", ("le", "+Inf")) == value("vllm:iteration_tokens_total_count") > 0
    assert value("vllm:cache_config_info", ("num_gpu_blocks", "4"), ("block_size", "256")) == 1
    assert value("num_request_max") == 4
    assert value("engine_steps_total") == value("vllm:iteration_tokens_total_count") + 1  # the one that failed
    assert value("engine_step_tokens_total") == value("vllm:iteration_tokens_total_sum")
    assert any(metric == "process_resident_memory_bytes" for metric, _ in samples)


def test_vllm_names_are_off_by_default() -> None:
    with running_server() as server:
        assert "vllm:" not in server.get("/metrics").text


def test_case_096_queue_full() -> None:
    with running_server(max_queue=0) as server:
        server.gate.open.clear()
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            running = [pool.submit(server.chat, "abc") for _ in range(4)]
            server.wait_for(lambda: server.service.engine.num_live >= 4)
            response = server.post({"messages": [user("x")]})
            assert response.status_code == 429
            assert int(response.headers["retry-after"]) >= 1
            assert response.json()["error"]["type"] == "RateLimitError"
            assert server.post({"messages": [user("x")], "stream": True}).status_code == 429
            with server.openai.with_options(max_retries=5) as client:
                messages: list[Any] = [user("ok")]
                patient = pool.submit(lambda: client.chat.completions.create(model=NAMES[0], messages=messages))
                server.gate.open.set()
                assert patient.result(30).choices[0].message.content == "ok"
            assert [one.result()["choices"][0]["message"]["content"] for one in running] == ["abc"] * 4


def test_case_097_drain() -> None:
    with running_server() as server:
        server.gate.open.clear()
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            running = pool.submit(server.stream, "abc")
            server.wait_for(lambda: server.service.engine.num_live >= 1)
            server.server.handle_exit(15, None)
            server.wait_for(lambda: server.get("/v1/health/ready").status_code == 503)
            assert server.get("/v1/health/live").status_code == 200
            refused = server.post({"messages": [user("x")]})
            assert refused.status_code == 503
            assert "retry-after" in refused.headers
            server.gate.open.set()
            assert content_of(running.result(20)) == "abc"


def test_drain_cuts_off_what_takes_too_long() -> None:
    with running_server(drain_timeout_s=0.05) as server:
        server.gate.open.clear()
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            running = pool.submit(server.post, {"messages": [user("*ab")], "max_tokens": 200})
            server.wait_for(lambda: server.service.engine.num_live >= 1)
            server.server.handle_exit(15, None)
            server.wait_for(lambda: server.server.should_exit)
            server.gate.open.set()
            assert running.result(20).status_code == 503


def test_case_098_unknown_adapter_is_404(server: RunningServer) -> None:
    assert server.post({"model": "some-lora", "messages": [user("x")]}).status_code == 404


def test_case_100_crowd_without_cross_talk(server: RunningServer) -> None:
    async def one(client: openai.AsyncOpenAI, number: int) -> tuple[str, str]:
        text = f"This is answer {number}: {'x' * (number % 7)}."
        messages: list[Any] = [{"role": "user", "content": text}]
        if number % 2:
            answer = await client.chat.completions.create(model=NAMES[0], messages=messages)
            return text, answer.choices[0].message.content or ""
        stream = await client.chat.completions.create(model=NAMES[0], messages=messages, stream=True)
        return text, "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    async def crowd() -> list[tuple[str, str]]:
        url = f"{server.base_url}/v1"
        async with openai.AsyncOpenAI(base_url=url, api_key="x", max_retries=0) as client:
            return await asyncio.gather(*(one(client, number) for number in range(64)))

    for asked, got in asyncio.run(crowd()):
        assert got == asked
    server.wait_idle()
    assert server.service.engine.stats().num_running == 0


def test_case_066_a_failing_request_leaves_the_others_alone(server: RunningServer) -> None:
    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        good = [pool.submit(server.chat, f"answer {number}") for number in range(8)]
        bad = [pool.submit(server.post, {"messages": [user("!0:x")]}) for _ in range(4)]
        texts = [one.result()["choices"][0]["message"]["content"] for one in good]
        assert texts == [f"answer {number}" for number in range(8)]
        assert {one.result().status_code for one in bad} == {500}
    server.wait_idle()


def test_case_053_seeded_answers_do_not_depend_on_the_crowd(server: RunningServer) -> None:
    fields = {"temperature": 1, "seed": 11, "max_tokens": 25}
    alone = server.chat("?", **fields)["choices"]
    with concurrent.futures.ThreadPoolExecutor(9) as pool:
        others = [pool.submit(server.chat, "?", temperature=1, max_tokens=40) for _ in range(8)]
        assert server.chat("?", **fields)["choices"] == alone
        for other in others:
            other.result()


def test_probes_answer_fast_while_many_streams_run(server: RunningServer) -> None:
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        streams = [pool.submit(server.stream, "*ab", max_tokens=150) for _ in range(16)]
        slowest = 0.0
        while not all(stream.done() for stream in streams):
            before = time.monotonic()
            assert server.get("/v1/health/live").status_code == 200
            slowest = max(slowest, time.monotonic() - before)
    assert slowest < 5  # a bound on hanging, not a measurement
