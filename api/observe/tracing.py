"""Optional OpenTelemetry traces: one span per generation request, never one per chunk, and never a prompt.

Attributes follow the ``gen_ai.*`` semantic conventions. The SDK is imported only when tracing is switched on. Knows
request records; knows no HTTP.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from api.errors import SettingsError
from api.observe.request_record import Outcome, RequestRecord
from api.server_settings import Settings

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter


class Tracer:
    """Turns finished records into spans."""

    def __init__(self, provider: Any) -> None:  # noqa: ANN401 - the SDK is optional, so is its type
        self._provider = provider
        self._tracer = provider.get_tracer("powertrain")

    def record(self, record: RequestRecord) -> None:
        """Export one span that spans arrival to finish."""
        from opentelemetry.trace import SpanKind, Status, StatusCode

        # Spans want wall-clock times; records hold a monotonic clock.
        offset_ns = time.time_ns() - time.perf_counter_ns()
        span = self._tracer.start_span(
            f"chat {record.model}",
            kind=SpanKind.SERVER,
            start_time=record.arrival_ns + offset_ns,
            attributes=_attributes(record),
        )
        if record.outcome is Outcome.FAILURE:
            span.set_status(Status(StatusCode.ERROR))
        span.end(end_time=record.finish_ns + offset_ns)

    def close(self) -> None:
        """Send what is still waiting."""
        self._provider.shutdown()


def tracer_from_settings(settings: Settings, exporter: SpanExporter | None = None) -> Tracer | None:
    """The tracer that the settings ask for. ``exporter`` replaces OTLP over HTTP. Raises SettingsError without SDK."""
    if not settings.otel:
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise SettingsError("otel is on, but OpenTelemetry is not installed; install the extra 'otel'") from error
    provider = TracerProvider(resource=Resource.create({"service.name": settings.otel_service_name}))
    chosen = exporter if exporter is not None else OTLPSpanExporter(endpoint=settings.otel_endpoint)
    provider.add_span_processor(BatchSpanProcessor(chosen))
    return Tracer(provider)


def _attributes(record: RequestRecord) -> dict[str, str | int | float | list[str]]:
    attributes: dict[str, str | int | float | list[str]] = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "powertrain",
        "gen_ai.request.model": record.model,
        "gen_ai.response.model": record.model,
        "gen_ai.request.max_tokens": record.max_tokens,
        "gen_ai.request.choice.count": record.num_choices,
        "gen_ai.usage.input_tokens": record.num_prompt_tokens,
        "gen_ai.usage.output_tokens": record.num_generated,
        "gen_ai.response.finish_reasons": [record.finish_reasons[index] for index in sorted(record.finish_reasons)],
        "powertrain.request_id": record.request_id,
    }
    if record.ttft_s is not None:
        attributes["gen_ai.server.time_to_first_token"] = record.ttft_s
    if record.prepare_s is not None:
        attributes["powertrain.prepare_time"] = record.prepare_s
    if record.queue_s is not None:
        attributes["powertrain.queue_time"] = record.queue_s
    return attributes
