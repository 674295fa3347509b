"""``/v1/completions``: one request's way from fields to an answer, for one prompt or several."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from litestar import Controller, post
from litestar.di import NamedDependency
from litestar.types import ASGIApp
from runtime.errors import RequestError
from runtime.request import SamplingParams, resolve_max_tokens
from runtime.text.tokenizer import Tokenizer

from api.controllers.choosing import chosen
from api.controllers.generating import Prepared, answer
from api.controllers.intake import AnyRequest, in_turn, receive_body
from api.controllers.registry import ModelRegistry
from api.controllers.service import Service
from api.request.completion import MAX_PROMPTS, CompletionRequest
from api.request.constraint import asked_constraint, check_marks
from api.request.early_length import check_text
from api.request.field_errors import describe
from api.request.json_body import parse_object
from api.request.sampling import sampling_params, truncate_prompt
from api.request.sampling_fields import MAX_CHOICES
from api.request.scoring import Scoring, scoring_of
from api.request.turns import off_loop
from api.request.validation import validate_completion
from api.response.completion import CompletionRenderer, CompletionShape
from api.response.prompt_part import AskedPrompt, echo_of
from api.served_model import ServedModel

DEFAULT_MAX_TOKENS = 16
"""OpenAI's default for this endpoint."""


class CompletionController(Controller):
    """Text completions."""

    path = "/v1/completions"

    @post(status_code=200)
    async def complete(self, request: AnyRequest, models: NamedDependency[ModelRegistry]) -> ASGIApp:
        """Continue a prompt or several. Choices are grouped by prompt."""
        arrival_ns = time.perf_counter_ns()
        body = await receive_body(request, models.front)
        service = await chosen(request, models, body)
        found = await in_turn(request, service, len(body), lambda: _prepare(body, service))
        return await answer(
            request,
            service,
            found.prepared,
            arrival_ns=arrival_ns,
            id_prefix="cmpl-",
            new_renderer=lambda record, options: CompletionRenderer(record, options, found.shape),
        )


@dataclass(frozen=True, slots=True)
class _Found:
    """A request that fits the model, and what its answer looks like."""

    prepared: Prepared[CompletionRequest]
    shape: CompletionShape


async def _prepare(body: bytes, service: Service) -> _Found:
    """Everything between the body and the engine; raises for the first fault and for what does not fit the model."""
    return await off_loop(len(body), lambda: _fitted(body, service))


def _fitted(body: bytes, service: Service) -> _Found:
    model = service.model
    asked = validate_completion(parse_object(body, service.reception.limits), service.rules)
    fields = asked.fields
    prompts = prompt_ids_of(fields, model, trusted=service.settings.trust_special_tokens_in_content)
    if len(prompts) * fields.num_choices > MAX_CHOICES:
        message = f"n: {len(prompts)} prompts times {fields.num_choices} choices is more than {MAX_CHOICES}"
        raise RequestError(message, "n")
    sampling = _shared_sampling(fields, prompts, model)
    demand = asked_constraint(fields)
    check_marks(demand, model.tokenizer.names_control_token)
    scoring = _scoring(fields, prompts)
    prepared = Prepared(asked=asked, prompts=prompts, sampling=sampling, scoring=scoring, demand=demand)
    return _Found(prepared, _shape(fields, prompts, model.tokenizer))


def prompt_ids_of(fields: CompletionRequest, model: ServedModel, *, trusted: bool) -> list[tuple[int, ...]]:
    """Token ids of each prompt. Raises RequestError for an empty list, mixed kinds, or ids outside the vocabulary."""
    given = fields.prompt
    if isinstance(given, str) or (given and isinstance(given[0], int)):
        given = [given]
    if not given:
        raise RequestError("prompt: an empty list holds no prompt", "prompt")
    if len(given) > MAX_PROMPTS:
        raise RequestError(f"prompt: at most {MAX_PROMPTS} prompts are allowed, got {len(given)}", "prompt")
    add_special = fields.add_special_tokens is not False
    encode = model.tokenizer.encode if trusted else model.tokenizer.encode_plain
    found = []
    for index, prompt in enumerate(given):
        if isinstance(prompt, str):
            check_text(prompt, fields, model, asked=_asked_tokens(fields))
            ids: Sequence[int] = encode(prompt, add_special_tokens=add_special)
        else:
            ids = _checked(prompt, f"prompt.{index}", model.tokenizer.vocab_size)
        kept = truncate_prompt(ids, fields, model.max_model_len)
        if not kept:
            raise RequestError("prompt: an empty prompt gives the model nothing to continue", "prompt")
        found.append(kept)
    return found


def _checked(ids: Any, where: str, vocab_size: int) -> list[int]:  # noqa: ANN401 - straight from the client
    if not isinstance(ids, list):
        raise RequestError(f"{where}: expected a string or a list of token ids, got {describe(ids)}", "prompt")
    for token_id in ids:
        if isinstance(token_id, bool) or not isinstance(token_id, int) or not 0 <= token_id < vocab_size:
            message = f"{where}: {describe(token_id)} is out of vocabulary: token ids are 0 to {vocab_size - 1}"
            raise RequestError(message, "prompt")
    return ids


def _shared_sampling(
    fields: CompletionRequest, prompts: Sequence[tuple[int, ...]], model: ServedModel
) -> SamplingParams:
    """All prompts share one rule; the longest prompt decides whether the answer fits."""
    longest = max(len(ids) for ids in prompts)
    max_tokens = resolve_max_tokens(longest, _asked_tokens(fields), model.max_model_len)
    return sampling_params(fields, model, max_tokens=max_tokens, logprobs=fields.logprobs)


def _asked_tokens(fields: CompletionRequest) -> int:
    return fields.max_tokens if fields.max_tokens is not None else DEFAULT_MAX_TOKENS


def _scoring(fields: CompletionRequest, prompts: Sequence[tuple[int, ...]]) -> Scoring | None:
    """Each choice tells of its prompt."""
    if fields.scored is None:
        return None
    name, num_top = fields.scored
    return scoring_of(name, num_top, sum(map(len, prompts)) * fields.num_choices)


def _shape(fields: CompletionRequest, prompts: Sequence[tuple[int, ...]], tokenizer: Tokenizer) -> CompletionShape:
    top = fields.prompt_logprobs
    return CompletionShape(
        num_prompts=len(prompts),
        echoes=tuple(echo_of(ids, tokenizer) for ids in prompts) if fields.echo else None,
        asked=None if top is None else tuple(AskedPrompt(ids, tokenizer, top) for ids in prompts),
        num_top=fields.logprobs or 0,
    )
