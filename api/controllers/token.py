"""``/tokenize`` and ``/detokenize``: the model's tokenizer for clients that count. Needs no engine."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from litestar import Controller, post
from litestar.di import NamedDependency
from litestar.types import ASGIApp
from msgspec import Meta
from runtime.errors import RequestError

from api.controllers.intake import AnyRequest, read_object
from api.controllers.service import Service
from api.request.chat import ChatRequest
from api.request.field_errors import convert
from api.request.prompt import build_prompt
from api.request.validation import check_model, validate_chat
from api.response.json_answer import JsonAnswer

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
    async def tokenize(self, request: AnyRequest, service: NamedDependency[Service]) -> ASGIApp:
        """Token ids of a text or of a conversation."""
        body = await read_object(request, service)
        model = service.model
        trusted = service.settings.trust_special_tokens_in_content
        wants_names = body.get("return_token_strs") is True
        if "messages" in body:
            known = ChatRequest.__struct_fields__
            fields: dict[str, Any] = {name: value for name, value in body.items() if name in known}
            asked = validate_chat(fields, service.rules)
            ids = list((await build_prompt(asked.fields, model, trust_special_tokens=trusted)).ids)
        else:
            check_model(body.get("model"), service.rules)
            text = convert({name: value for name, value in body.items() if value is not None}, TokenizeRequest)
            encode = model.tokenizer.encode if trusted else model.tokenizer.encode_plain
            ids = encode(text.prompt, add_special_tokens=text.add_special_tokens)
        names = [model.tokenizer.token_name(token_id) or "" for token_id in ids] if wants_names else None
        return JsonAnswer(TokenizeBody(count=len(ids), max_model_len=model.max_model_len, tokens=ids, token_strs=names))

    @post("/detokenize", status_code=200)
    async def detokenize(self, request: AnyRequest, service: NamedDependency[Service]) -> ASGIApp:
        """Text of token ids."""
        body = await read_object(request, service)
        check_model(body.get("model"), service.rules)
        asked = convert({name: value for name, value in body.items() if value is not None}, DetokenizeRequest)
        tokenizer = service.model.tokenizer
        for index, token_id in enumerate(asked.tokens):
            if token_id >= tokenizer.vocab_size:
                where = f"tokens.{index}"
                message = f"{where}: {token_id} is not in the vocabulary of {tokenizer.vocab_size} tokens"
                raise RequestError(message, where)
        return JsonAnswer(DetokenizeBody(tokenizer.decode(asked.tokens, skip_special_tokens=False)))
