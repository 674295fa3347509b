"""Log lines and traces: one per request, nothing of the prompt, nothing that starts a line of its own."""

from __future__ import annotations

import logging
from typing import Any

import msgspec
import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from api.observe.logs import JsonFormatter, TextFormatter, configure_logging
from api.observe.request_record import Outcome, RequestRecord
from api.observe.tracing import Tracer, tracer_from_settings
from api.server_settings import Settings
from tests.api.scripted_server import NAMES, RunningServer, user


def _lines(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    return [record.fields for record in caplog.records if record.name == "powertrain.requests"]  # type: ignore[attr-defined]


def test_one_line_per_request(server: RunningServer, caplog: pytest.LogCaptureFixture) -> None:
    server.wait_idle()  # an earlier test's line may still be on its way
    with caplog.at_level(logging.INFO, "powertrain.requests"):
        server.post({"messages": [user("abc")], "foo": 1, "cache_salt": "lines"}, headers={"x-request-id": "my-id"})
        server.wait_idle()  # the next request's line could overtake this one's
        server.stream("abc", max_tokens=2, cache_salt="lines")
        server.wait_idle()
        server.get("/v1/health/live")
        server.get("/nope")
        server.wait_idle()
    first, second, third = _lines(caplog)
    assert (first["id"], first["status"], first["path"]) == ("my-id", 200, "/v1/chat/completions")
    assert (first["model"], first["prompt_tokens"], first["completion_tokens"]) == (NAMES[0], 22, 4)
    assert (first["finish"], first["ignored_fields"]) == ("stop", "foo")
    assert first["queue_ms"] >= 0
    assert first["total_ms"] >= first["ttft_ms"] > first["prepare_ms"] > 0
    assert (first["cached_tokens"], second["cached_tokens"] > 0) == (0, True)
    assert (second["finish"], second["completion_tokens"]) == ("length", 2)
    assert (third["status"], "model" in third) == (404, False)


@pytest.mark.parametrize(
    ("body", "param", "reason"),
    [
        ({"messages": [user("private")], "top_p": 7}, "top_p", "top_p: expected a number <= 1.0, got 7"),
        ({"messages": [user("x")], "temperature": "private"}, "temperature", "temperature: expected a number, got"),
        ({"messages": [user("x")], "model": "gpt-9"}, "model", "The model `gpt-9` does not exist."),
        ({"messages": "private"}, "messages", "messages: expected"),
        (
            {"messages": [user("x"), {"role": "tool", "content": "private", "tool_call_id": "1"}]},
            "messages",
            "the chat template refused the messages or failed",
        ),
    ],
)
def test_a_refusal_s_line_names_the_parameter_and_the_reason(
    body: dict[str, Any], param: str, reason: str, server: RunningServer, caplog: pytest.LogCaptureFixture
) -> None:
    server.wait_idle()
    with caplog.at_level(logging.INFO, "powertrain.requests"):
        status = server.post(body).status_code
        server.wait_idle()
    (line,) = _lines(caplog)
    assert (line["status"], line["client"], line["param"]) == (status, "127.0.0.1", param)
    assert line["reason"].startswith(reason)
    assert "private" not in str(line)
    assert caplog.records[-1].levelno == logging.INFO


def test_prompts_are_never_logged(server: RunningServer, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "powertrain"):
        server.chat("a very private question")
        server.post({"messages": [user("!1:private")]})
        server.post({"messages": [user("x")], "temperature": "private"})
        server.wait_idle()
    assert "private" not in "".join(TextFormatter().format(record) for record in caplog.records)


def _record(message: str, **fields: object) -> logging.LogRecord:
    record = logging.LogRecord("powertrain.requests", logging.INFO, __file__, 1, message, (), None)
    record.fields = fields
    return record


def test_exceptions_stay_on_one_line() -> None:
    record = _record("failed")
    try:
        raise ValueError("first\nsecond")
    except ValueError as error:
        record.exc_info = (type(error), error, error.__traceback__)
    assert "\n" not in TextFormatter().format(record)
    assert "second" in msgspec.json.decode(JsonFormatter().format(record))["exception"]


def test_one_span_per_request_with_the_standard_attributes() -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = Tracer(provider)
    times = iter([1_500_000_000, 1_600_000_000, 1_700_000_000])
    record = RequestRecord(
        request_id="r", model="m", num_prompt_tokens=7, num_choices=1, max_tokens=5, stream=True,
        arrival_ns=1_000_000_000, clock=lambda: next(times),
    )  # fmt: skip
    record.submitted_ns = 1_250_000_000
    record.token(0)
    record.token(0)
    record.finish_reasons[0] = "stop"
    record.end(Outcome.SUCCESS)
    tracer.record(record)
    (span,) = exporter.get_finished_spans()
    assert span.name == "chat m"
    attributes = dict(span.attributes or {})
    assert attributes["gen_ai.usage.input_tokens"] == 7
    assert attributes["gen_ai.usage.output_tokens"] == 2
    assert attributes["gen_ai.response.finish_reasons"] == ("stop",)
    assert attributes["gen_ai.server.time_to_first_token"] == 0.5
    assert attributes["powertrain.prepare_time"] == 0.25
    assert span.end_time is not None
    assert span.start_time is not None
    assert span.end_time - span.start_time == 700_000_000
    tracer.close()


def test_settings_switch_tracing_on() -> None:
    assert tracer_from_settings(Settings()) is None
    exporter = InMemorySpanExporter()
    tracer = tracer_from_settings(Settings(otel=True, otel_service_name="mine"), exporter)
    assert tracer is not None
    record = RequestRecord(
        request_id="r", model="m", num_prompt_tokens=1, num_choices=1, max_tokens=1, stream=False, arrival_ns=1
    )
    record.end(Outcome.FAILURE)
    tracer.record(record)
    tracer._provider.force_flush()
    (span,) = exporter.get_finished_spans()
    assert span.resource.attributes["service.name"] == "mine"
    assert span.status.status_code.name == "ERROR"
    tracer.close()


def test_logging_goes_to_one_handler_in_the_chosen_form() -> None:
    names = ("powertrain", "uvicorn")
    before = {name: (logging.getLogger(name).handlers, logging.getLogger(name).level) for name in names}
    try:
        configure_logging(Settings(log_format="json", log_level="warning"))
        for name in names:
            logger = logging.getLogger(name)
            assert [type(handler.formatter) for handler in logger.handlers] == [JsonFormatter]
            assert logger.level == logging.WARNING
    finally:
        for name, (handlers, level) in before.items():
            logger = logging.getLogger(name)
            logger.handlers, logger.propagate = handlers, True
            logger.setLevel(level)


def test_record_formulas() -> None:
    times = iter([30, 50, 80, 100])
    record = RequestRecord(
        request_id="r", model="m", num_prompt_tokens=1, num_choices=2, max_tokens=5, stream=False,
        arrival_ns=10, clock=lambda: next(times),
    )  # fmt: skip
    record.token(0)
    record.token(1)
    record.token(0)
    assert record.prepare_s is None
    record.submitted_ns = 12
    record.admitted_ns = 15
    record.end(Outcome.SUCCESS)
    record.end(Outcome.FAILURE)
    assert (record.prepare_s, record.queue_s) == pytest.approx((2e-9, 5e-9))
    assert (record.ttft_s, record.total_s) == pytest.approx((20e-9, 90e-9))
    assert record.gaps_s == pytest.approx([50e-9])
    assert record.num_generated == 3
    assert record.outcome is Outcome.SUCCESS
