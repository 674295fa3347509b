"""``/v1/chat/completions`` and its dry run ``/render``: one request's way from fields to an answer."""

from __future__ import annotations

import time

import msgspec
from litestar import Controller, post
from litestar.di import NamedDependency
from litestar.types import ASGIApp

from api.controllers.choosing import chosen, text_side
from api.controllers.conversation import PreparedChat, prepare_chat
from api.controllers.generating import answer
from api.controllers.intake import AnyRequest, in_turn, receive_body
from api.controllers.registry import ModelRegistry
from api.controllers.service import Service
from api.request.chat import ChatRequest
from api.request.json_body import parse_object
from api.request.messages import AssistantMessage, text_of
from api.request.turns import off_loop
from api.request.validation import validate_chat
from api.response.chat import ChatRenderer, ChatShape
from api.response.json_answer import JsonAnswer
from api.response.prompt_part import AskedPrompt


class RenderedPrompt(msgspec.Struct, frozen=True):
    """What a chat request's prompt looks like, without generating."""

    prompt: str
    prompt_token_ids: list[int]
    max_tokens: int


class ChatController(Controller):
    """Chat completions."""

    path = "/v1/chat/completions"

    @post(status_code=200)
    async def complete(self, request: AnyRequest, models: NamedDependency[ModelRegistry]) -> ASGIApp:
        """Answer a conversation. Every check is made before the status line."""
        arrival_ns = time.perf_counter_ns()
        body = await receive_body(request, models.front)
        service = await chosen(request, models, body)
        chat = await in_turn(request, service, len(body), lambda: _prepare(request, body, service))
        shape = _shape(chat, service)
        return await answer(
            request,
            service,
            chat.prepared,
            arrival_ns=arrival_ns,
            id_prefix=service.settings.id_prefix,
            new_renderer=lambda record, options: ChatRenderer(record, options, shape),
        )

    @post("/render", status_code=200)
    async def render(self, request: AnyRequest, models: NamedDependency[ModelRegistry]) -> ASGIApp:
        """The prompt that a chat request would run with. Needs no engine."""
        body = await receive_body(request, models.front)
        service = await text_side(request, models, body)
        chat = await in_turn(request, service, len(body), lambda: _prepare(request, body, service))
        prepared = chat.prepared
        return JsonAnswer(RenderedPrompt(chat.prompt_text, list(prepared.prompts[0]), prepared.sampling.max_tokens))


async def _prepare(request: AnyRequest, body: bytes, service: Service) -> PreparedChat:
    limits = service.reception.limits
    asked = await off_loop(len(body), lambda: validate_chat(parse_object(body, limits), service.rules))
    return await prepare_chat(request, asked, service, size_bytes=len(body))


def _shape(chat: PreparedChat, service: Service) -> ChatShape:
    fields: ChatRequest = chat.prepared.asked.fields
    last = fields.messages[-1]
    echo = text_of(last.content) if fields.echo and isinstance(last, AssistantMessage) else ""
    return ChatShape(
        new_call_id=service.model.answers.new_call_id,
        prompt=AskedPrompt(chat.prepared.prompts[0], service.model.tokenizer, fields.prompt_logprobs or 0),
        echo=echo,
        calls_only=chat.prepared.form.calls_only,
    )
