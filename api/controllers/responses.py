"""``/v1/responses``: a chat completion in another shape, on the same way from fields to an answer. Keeps nothing."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import msgspec
from litestar import Controller, post
from litestar.di import NamedDependency
from litestar.types import ASGIApp
from msgspec import Raw

from api.controllers.choosing import chosen
from api.controllers.conversation import prepare_chat
from api.controllers.generating import Prepared, answer
from api.controllers.intake import AnyRequest, in_turn, new_id, receive_body
from api.controllers.registry import ModelRegistry
from api.controllers.service import Service
from api.observe.request_record import RequestRecord
from api.request.chat import ChatRequest
from api.request.json_body import parse_object
from api.request.responses import ReasoningOptions, TextOptions
from api.request.responses_to_chat import AskedResponse, validate_response
from api.request.structured import TextFormat
from api.request.turns import off_loop
from api.response.renderer import AnswerOptions
from api.response.response_types import ReasoningEcho, Response
from api.response.responses import ResponsesRenderer


class ResponsesController(Controller):
    """Responses."""

    path = "/v1/responses"

    @post(status_code=200)
    async def respond(self, request: AnyRequest, models: NamedDependency[ModelRegistry]) -> ASGIApp:
        """Answer a conversation. Every check is made before the status line."""
        arrival_ns = time.perf_counter_ns()
        body = await receive_body(request, models.front)
        service = await chosen(request, models, body)
        found = await in_turn(request, service, len(body), lambda: _prepare(request, body, service))

        def new_renderer(record: RequestRecord, options: AnswerOptions) -> ResponsesRenderer:
            begun = _begun(found, record, options)
            return ResponsesRenderer(
                record, options, begun, new_id=new_id, as_summary=found.reasoning.summary is not None
            )

        return await answer(
            request, service, found.prepared, arrival_ns=arrival_ns, id_prefix="resp_", new_renderer=new_renderer
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """A request that fits the model, and what its response repeats of it, encoded where that may be large."""

    asked: AskedResponse
    prepared: Prepared[ChatRequest]
    reasoning: ReasoningEcho
    instructions: Raw
    text: Raw
    tools: Raw


async def _prepare(request: AnyRequest, body: bytes, service: Service) -> _Found:
    limits, size = service.reception.limits, len(body)
    asked = await off_loop(size, lambda: validate_response(parse_object(body, limits), service.rules))
    with asked.names.in_errors():
        chat = await prepare_chat(request, asked.chat, service, size_bytes=size)
    prepared = chat.prepared
    if (demand := prepared.demand) is not None:  # the compiler and the engine blame this field
        prepared = replace(prepared, demand=replace(demand, field=asked.names.given(demand.field)))
    return await off_loop(size, lambda: _found(asked, prepared))


def _found(asked: AskedResponse, prepared: Prepared[ChatRequest]) -> _Found:
    fields = asked.fields
    text = fields.text or TextOptions()
    shown = TextOptions(text.format or TextFormat(), text.verbosity or "medium")
    reasoning = fields.reasoning or ReasoningOptions()
    return _Found(
        asked=asked,
        prepared=prepared,
        reasoning=ReasoningEcho(reasoning.effort, reasoning.summary or reasoning.generate_summary),
        instructions=_encoded(fields.instructions),
        text=_encoded(shown),
        tools=_encoded(fields.tools or []),
    )


def _encoded(value: object) -> Raw:
    return Raw(msgspec.json.encode(value))


def _begun(found: _Found, record: RequestRecord, options: AnswerOptions) -> Response:
    """The response before anything of its output is known."""
    fields, sampling = found.asked.fields, found.prepared.sampling
    return Response(
        id=options.answer_id,
        created_at=options.created_unix,
        model=record.model,
        frequency_penalty=sampling.frequency_penalty,
        instructions=found.instructions,
        max_output_tokens=fields.max_output_tokens,
        max_tool_calls=fields.max_tool_calls,
        metadata=fields.metadata or {},
        parallel_tool_calls=fields.parallel_tool_calls is not False,
        presence_penalty=sampling.presence_penalty,
        prompt_cache_key=fields.prompt_cache_key,
        reasoning=found.reasoning,
        safety_identifier=fields.safety_identifier,
        temperature=sampling.temperature,
        text=found.text,
        tool_choice=fields.tool_choice or "auto",
        tools=found.tools,
        top_logprobs=fields.top_logprobs or 0,
        top_p=sampling.top_p,
        user=fields.user,
    )
