"""``/v1/chat/completions`` and its dry run ``/render``: one request's way from fields to an answer."""

from __future__ import annotations

import time
from dataclasses import dataclass

import msgspec
from litestar import Controller, post
from litestar.di import NamedDependency
from litestar.types import ASGIApp
from runtime.errors import RequestError
from runtime.request import Request as EngineRequest
from runtime.request import SamplingParams, resolve_max_tokens

from api.controllers.intake import (
    AnyRequest,
    cache_salt_of,
    frame_answer,
    in_turn,
    new_id,
    receive_body,
    request_id_of,
    start_generation,
)
from api.controllers.service import Service
from api.observe.request_record import RequestRecord
from api.request.chat import ChatRequest
from api.request.early_length import check_length
from api.request.json_body import parse_object
from api.request.messages import AssistantMessage, text_of
from api.request.prompt import Prompt, build_prompt
from api.request.sampling import sampling_params, text_rules, truncate_prompt
from api.request.turns import off_loop
from api.request.validation import Validated, validate_chat
from api.response.chat import ChatRenderer
from api.response.json_answer import JsonAnswer
from api.response.logprobs import TokenNames
from api.response.renderer import AnswerOptions
from api.served_model import ServedModel


class RenderedPrompt(msgspec.Struct, frozen=True):
    """What a chat request's prompt looks like, without generating."""

    prompt: str
    prompt_token_ids: list[int]
    max_tokens: int


class ChatController(Controller):
    """Chat completions."""

    path = "/v1/chat/completions"

    @post(status_code=200)
    async def complete(self, request: AnyRequest, service: NamedDependency[Service]) -> ASGIApp:
        """Answer a conversation. Every check is made before the status line."""
        arrival_ns = time.perf_counter_ns()
        body = await receive_body(request, service)
        service.require_room()
        prepared = await in_turn(request, service, len(body), lambda: _prepare(body, service))
        asked, prompt_ids, sampling = prepared.asked, prepared.prompt_ids, prepared.sampling
        fields = asked.fields
        engine_request = EngineRequest(
            request_id=new_id(""),
            prompt_ids=prompt_ids,
            sampling=sampling,
            eos_token_ids=service.model.eos_token_ids,
            n=fields.num_choices,
            arrival_ns=arrival_ns,
            cache_salt=cache_salt_of(request, service, fields),
        )
        record = RequestRecord(
            request_id=request_id_of(request),
            model=asked.model,
            num_prompt_tokens=len(prompt_ids),
            num_choices=fields.num_choices,
            max_tokens=sampling.max_tokens,
            stream=bool(fields.stream),
            arrival_ns=arrival_ns,
        )
        renderer = ChatRenderer(record, _options(fields, service, prompt_ids), _echo(fields))
        rules = text_rules(fields, sampling, service.model.eos_token_ids)
        generation = start_generation(request, service, [engine_request], rules, record)
        return frame_answer(
            request,
            service,
            fields=fields,
            ignored=asked.ignored,
            record=record,
            generation=generation,
            renderer=renderer,
        )

    @post("/render", status_code=200)
    async def render(self, request: AnyRequest, service: NamedDependency[Service]) -> ASGIApp:
        """The prompt that a chat request would run with. Needs no engine."""
        body = await receive_body(request, service)
        found = await in_turn(request, service, len(body), lambda: _prepare(body, service))
        return JsonAnswer(RenderedPrompt(found.text, list(found.prompt_ids), found.sampling.max_tokens))


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A chat request that fits the model, its prompt and its sampling rules."""

    asked: Validated[ChatRequest]
    text: str
    prompt_ids: tuple[int, ...]
    sampling: SamplingParams


async def _prepare(body: bytes, service: Service) -> _Prepared:
    """Everything between the body and the engine; raises for the first fault and for what does not fit the model."""
    limits = service.reception.limits
    asked = await off_loop(len(body), lambda: validate_chat(parse_object(body, limits), service.rules))
    check_length(asked.fields, service.model)
    trusted = service.settings.trust_special_tokens_in_content
    prompt = await build_prompt(asked.fields, service.model, trust_special_tokens=trusted, size_bytes=len(body))
    return await off_loop(len(body), lambda: _fitted(asked, prompt, service.model))


def _fitted(asked: Validated[ChatRequest], prompt: Prompt, model: ServedModel) -> _Prepared:
    fields = asked.fields
    prompt_ids = truncate_prompt(prompt.ids, fields, model.max_model_len)
    if not prompt_ids:
        raise RequestError("messages: the chat template makes an empty prompt of them", "messages")
    default = model.defaults.max_new_tokens
    max_tokens = resolve_max_tokens(len(prompt_ids), fields.asked_max_tokens, model.max_model_len, default)
    logprobs = (fields.top_logprobs or 0) if fields.logprobs else None
    sampling = sampling_params(fields, model, max_tokens=max_tokens, logprobs=logprobs)
    return _Prepared(asked, prompt.text, prompt_ids, sampling)


def _options(fields: ChatRequest, service: Service, prompt_ids: tuple[int, ...]) -> AnswerOptions:
    settings = service.settings
    include_usage = fields.wants_usage_chunk or settings.force_include_usage
    names = TokenNames(service.model.tokenizer, as_ids=bool(fields.return_tokens_as_token_ids))
    return AnswerOptions(
        answer_id=new_id(settings.id_prefix),
        created_unix=int(time.time()),
        names=names if fields.logprobs else None,
        include_usage=include_usage,
        continuous_usage=bool(fields.stream_options and fields.stream_options.continuous_usage_stats),
        cached_tokens=settings.prompt_tokens_details,
        stats=settings.per_request_stats,
        prompt_ids=prompt_ids if fields.return_token_ids else None,
    )


def _echo(fields: ChatRequest) -> str:
    last = fields.messages[-1]
    return text_of(last.content) if fields.echo and isinstance(last, AssistantMessage) else ""
