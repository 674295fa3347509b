"""From a validated conversation to all that generating an answer needs: prompt, sampling, constraint, form of the text.

Every endpoint that answers a conversation comes here with the fields of a chat request, whatever its own body looked
like. Knows no body and no shape of an answer.
"""

from __future__ import annotations

from dataclasses import dataclass

from runtime.errors import RequestError
from runtime.request import resolve_max_tokens

from api.controllers.answer_plan import answer_plan
from api.controllers.generating import Prepared
from api.controllers.intake import AnyRequest, cache_salt_of
from api.controllers.service import Service
from api.request.chat import ChatRequest
from api.request.constraint import asked_constraint, check_marks
from api.request.early_length import check_length
from api.request.prompt import Prompt, with_prompt
from api.request.sampling import sampling_params, truncate_prompt
from api.request.scoring import scoring_of
from api.request.validation import Validated
from api.served_model import ServedModel


@dataclass(frozen=True, slots=True)
class PreparedChat:
    """A conversation that fits the model, and the text of its prompt before truncation."""

    prepared: Prepared[ChatRequest]
    prompt_text: str


async def prepare_chat(
    request: AnyRequest, asked: Validated[ChatRequest], service: Service, *, size_bytes: int
) -> PreparedChat:
    """Everything between the fields and the engine; raises for what does not fit the model.

    ``size_bytes`` is the body's size: large texts are worked on off the event loop. Call it within a turn.
    """
    check_length(asked.fields, service.model)
    return await with_prompt(
        asked.fields,
        service.model,
        lambda prompt: _fitted(asked, prompt, service.model),
        trust_special_tokens=service.settings.trust_special_tokens_in_content,
        owner=cache_salt_of(request, service, asked.fields),
        size_bytes=size_bytes,
    )


def _fitted(asked: Validated[ChatRequest], prompt: Prompt, model: ServedModel) -> PreparedChat:
    fields = asked.fields
    prompt_ids = truncate_prompt(prompt.ids, fields, model.max_model_len)
    if not prompt_ids:
        raise RequestError("messages: the chat template makes an empty prompt of them", "messages")
    default = model.defaults.max_new_tokens
    max_tokens = resolve_max_tokens(len(prompt_ids), fields.asked_max_tokens, model.max_model_len, default)
    logprobs = (fields.top_logprobs or 0) if fields.logprobs else None
    sampling = sampling_params(fields, model, max_tokens=max_tokens, logprobs=logprobs)
    check_marks(asked_constraint(fields), model.tokenizer.names_control_token)
    plan = answer_plan(fields, model.answers, prompt.text)
    top = fields.prompt_logprobs
    prepared = Prepared(
        asked=asked,
        prompts=(prompt_ids,),
        sampling=sampling,
        scoring=None if top is None else scoring_of("prompt_logprobs", top, len(prompt_ids)),
        form=plan.form,
        demand=plan.demand,
        budget=plan.budget,
        opened=plan.opened,
    )
    return PreparedChat(prepared, prompt.text)
