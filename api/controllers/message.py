"""``/v1/messages`` (Anthropic's): a chat completion in another shape, on the same way from fields to an answer."""

from __future__ import annotations

import time
from dataclasses import replace

from litestar import Controller, post
from litestar.di import NamedDependency
from litestar.types import ASGIApp

from api.controllers.choosing import chosen, text_side
from api.controllers.conversation import prepare_chat
from api.controllers.generating import Prepared, answer
from api.controllers.intake import AnyRequest, in_turn, new_id, receive_body
from api.controllers.registry import ModelRegistry
from api.controllers.service import Service
from api.request.chat import ChatRequest
from api.request.json_body import parse_object
from api.request.message_to_chat import validate_message
from api.request.turns import off_loop
from api.response.json_answer import JsonAnswer
from api.response.message import MessageRenderer
from api.response.message_types import TokenCount


class MessageController(Controller):
    """Messages."""

    path = "/v1/messages"

    @post(status_code=200)
    async def respond(self, request: AnyRequest, models: NamedDependency[ModelRegistry]) -> ASGIApp:
        """Answer a conversation. Every check is made before the status line."""
        arrival_ns = time.perf_counter_ns()
        body = await receive_body(request, models.front)
        service = await chosen(request, models, body)
        prepared = await in_turn(request, service, len(body), lambda: _prepare(request, body, service))
        return await answer(
            request,
            service,
            prepared,
            arrival_ns=arrival_ns,
            id_prefix="msg_",
            new_renderer=lambda record, options: MessageRenderer(record, options, new_id),
        )

    @post("/count_tokens", status_code=200)
    async def count(self, request: AnyRequest, models: NamedDependency[ModelRegistry]) -> ASGIApp:
        """How long the prompt of a conversation is. Needs no engine."""
        body = await receive_body(request, models.front)
        service = await text_side(request, models, body)
        prepared = await in_turn(request, service, len(body), lambda: _prepare(request, body, service, counting=True))
        return JsonAnswer(TokenCount(len(prepared.prompts[0])))


async def _prepare(
    request: AnyRequest, body: bytes, service: Service, *, counting: bool = False
) -> Prepared[ChatRequest]:
    limits, rules, size = service.reception.limits, service.rules, len(body)
    asked = await off_loop(size, lambda: validate_message(parse_object(body, limits), rules, counting=counting))
    with asked.names.in_errors():
        prepared = (await prepare_chat(request, asked.chat, service, size_bytes=size)).prepared
    if (demand := prepared.demand) is not None:  # the compiler and the engine blame this field
        prepared = replace(prepared, demand=replace(demand, field=asked.names.given(demand.field)))
    return prepared
