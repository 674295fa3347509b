"""``/tokenize`` and ``/detokenize``: the model's tokenizer for clients that count. Needs no engine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
from litestar import Controller, post
from litestar.di import NamedDependency
from litestar.types import ASGIApp
from msgspec import Meta
from runtime.errors import RequestError

from api.controllers.choosing import text_side
from api.controllers.intake import AnyRequest, cache_salt_of, in_turn, receive_body
from api.controllers.registry import ModelRegistry
from api.controllers.service import Service
from api.request.chat import ChatRequest
from api.request.field_errors import convert
from api.request.json_body import parse_object
from api.request.prompt import with_prompt
from api.request.turns import off_loop
from api.request.validation import check_model, validate_chat
from api.response.json_answer import JsonAnswer
from api.served_model import ServedModel

_INT64_MAX = 2**63 - 1


class TokenizeRequest(msgspec.Struct, kw_only=True):
    """Text to tokenize; with ``messages`` in place of ``prompt``, a chat request whose prompt is tokenized."""

    prompt: str
    model: str | None = None
    add_special_tokens: bool = True
    return_token_strs: bool | None = None


class TokenizeBody(msgspec.Struct, frozen=True, kw_only=True):
    """Token ids of a text."""

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None = None


class DetokenizeRequest(msgspec.Struct, kw_only=True):
    """Token ids to turn into text."""

    tokens: list[Annotated[int, Meta(ge=0, le=_INT64_MAX)]]
    model: str | None = None


class DetokenizeBody(msgspec.Struct, frozen=True):
    """Text of token ids, control tokens included."""

    prompt: str


class TokenController(Controller):
    """The tokenizer."""

    @post("/tokenize", status_code=200)
    async def tokenize(self, request: AnyRequest, models: NamedDependency[ModelRegistry]) -> ASGIApp:
        """Token ids of a text or of a conversation."""
        body = await receive_body(request, models.front)
        service = await text_side(request, models, body)
        return await in_turn(request, service, len(body), lambda: _tokenized(request, body, service))

    @post("/detokenize", status_code=200)
    async def detokenize(self, request: AnyRequest, models: NamedDependency[ModelRegistry]) -> ASGIApp:
        """Text of token ids."""
        body = await receive_body(request, models.front)
        service = await text_side(request, models, body)
        return await in_turn(request, service, len(body), lambda: _detokenized(body, service))


async def _tokenized(request: AnyRequest, body: bytes, service: Service) -> JsonAnswer:
    limits, size, model = service.reception.limits, len(body), service.model
    trusted = service.settings.trust_special_tokens_in_content
    fields = await off_loop(size, lambda: parse_object(body, limits))
    if "messages" in fields:
        asked = await off_loop(size, lambda: validate_chat(_known(fields), service.rules))
        ids = await with_prompt(
            asked.fields,
            model,
            lambda prompt: list(prompt.ids),
            trust_special_tokens=trusted,
            owner=cache_salt_of(request, service, asked.fields),
            size_bytes=size,
        )
    else:
        ids = await off_loop(size, lambda: _text_ids(fields, service, trusted=trusted))
    wants_names = fields.get("return_token_strs") is True
    return await off_loop(size, lambda: _ids_answer(ids, model, with_names=wants_names))


def _known(fields: Mapping[str, Any]) -> dict[str, Any]:
    known = ChatRequest.__struct_fields__
    return {name: value for name, value in fields.items() if name in known}


def _text_ids(fields: Mapping[str, Any], service: Service, *, trusted: bool) -> list[int]:
    check_model(fields.get("model"), service.rules)
    text = convert({name: value for name, value in fields.items() if value is not None}, TokenizeRequest)
    tokenizer = service.model.tokenizer
    encode = tokenizer.encode if trusted else tokenizer.encode_plain
    return encode(text.prompt, add_special_tokens=text.add_special_tokens)


def _ids_answer(ids: list[int], model: ServedModel, *, with_names: bool) -> JsonAnswer:
    names = [model.tokenizer.token_name(token_id) or "" for token_id in ids] if with_names else None
    return JsonAnswer(TokenizeBody(count=len(ids), max_model_len=model.max_model_len, tokens=ids, token_strs=names))


async def _detokenized(body: bytes, service: Service) -> JsonAnswer:
    return await off_loop(len(body), lambda: _text_answer(parse_object(body, service.reception.limits), service))


def _text_answer(fields: Mapping[str, Any], service: Service) -> JsonAnswer:
    check_model(fields.get("model"), service.rules)
    asked = convert({name: value for name, value in fields.items() if value is not None}, DetokenizeRequest)
    tokenizer = service.model.tokenizer
    for index, token_id in enumerate(asked.tokens):
        if token_id >= tokenizer.vocab_size:
            where = f"tokens.{index}"
            message = f"{where}: {token_id} is not in the vocabulary of {tokenizer.vocab_size} tokens"
            raise RequestError(message, where)
    return JsonAnswer(DetokenizeBody(tokenizer.decode(asked.tokens, skip_special_tokens=False)))
