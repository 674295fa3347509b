"""From a prepared request to its answer on the way: the part that every endpoint that generates shares.

What an endpoint prepares (``Prepared``) holds all that was decided from its fields; what it brings beside that is the
shape of its answers (a renderer). Knows no field of a particular endpoint and no JSON.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic
from urllib.parse import quote

from msgspec import UNSET
from runtime.constraint.opening import OpeningConstraint
from runtime.constraint.spec import ConstraintSpec, Part
from runtime.constraint.thinking_budget import BudgetedConstraint, ThinkingBudget
from runtime.request import Request as EngineRequest
from runtime.request import SamplingParams
from runtime.text.text_stream import TextStream
from runtime.token_mask import Constraint

from api.client_gone import unless_gone
from api.controllers.choosing import awake
from api.controllers.intake import HOLD_KEY, AnyRequest, cache_salt_of, new_id, request_id_of, visit_of
from api.controllers.service import Service
from api.edge.access import IGNORED_KEY, RECORD_KEY
from api.observe.request_record import Outcome, RequestRecord
from api.request.byte_budget import Hold
from api.request.sampling import text_rules
from api.request.sampling_fields import SamplingFields
from api.request.scoring import Scoring
from api.request.validation import Fields, Validated
from api.response.answering import Answer
from api.response.choice_stream import AnswerForm, ChoiceStream
from api.response.generation import Generation
from api.response.logprobs import TokenNames
from api.response.renderer import AnswerOptions, Renderer
from api.served_model import ServedModel

_BYTES_PER_PROMPT_TOKEN = 40  # a Python integer and its place in a tuple
_BYTES_PER_SCORE = 160  # an id and a float in a tuple, with a share of what holds them
_MAX_HEADER_CHARS = 1024

NewRenderer = Callable[[RequestRecord, AnswerOptions], Renderer]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared(Generic[Fields]):
    """A request that fits the model: its prompts, how it is sampled, what its text must satisfy (None: nothing) and how
    it is read. ``scoring`` is None where the prompts' own log-probabilities are not asked for. ``opened``, if given, is
    what the text must satisfy behind a mark of reasoning."""

    asked: Validated[Fields]
    prompts: Sequence[tuple[int, ...]]
    sampling: SamplingParams
    scoring: Scoring | None = None
    form: AnswerForm = field(default_factory=AnswerForm)
    demand: ConstraintSpec | None = None
    budget: ThinkingBudget | None = None
    opened: Part | None = None


async def answer(
    request: AnyRequest,
    service: Service,
    prepared: Prepared[Any],
    *,
    arrival_ns: int,
    id_prefix: str,
    new_renderer: NewRenderer,
) -> Answer:
    """Load the model if need be, compile what the text must satisfy, then submit to the engine. Returns the application
    that sends the answer.

    Raises RequestError for a demand that cannot be had, NotFoundError for an adapter that was taken out meanwhile,
    Overloaded, EngineUnavailable, or ClientGoneError: all of them before any byte of an answer. ClientLimitError when
    the client has not the tokens for it.
    """
    service = await awake(request, service)
    constraint = await _compiled(request, service, prepared)
    fields: SamplingFields = prepared.asked.fields
    record = _record(request, prepared, arrival_ns)
    renderer = new_renderer(record, _options(service, prepared, new_id(id_prefix)))
    hold: Hold = request.scope["state"][HOLD_KEY]
    hold.resize(record.num_prompt_tokens * _BYTES_PER_PROMPT_TOKEN + _scores_bytes(prepared.scoring))
    requests = _engine_requests(service, prepared, constraint, arrival_ns, cache_salt_of(request, service, fields))
    visit = visit_of(request)
    if visit is not None:
        visit.reserve(record.num_prompt_tokens, record.num_choices * record.max_tokens)
    generation = _start(service, prepared, requests, record)
    record.submitted_ns = record.clock()
    if visit is not None:
        visit.charge(lambda: _used(record), is_whole=not record.stream)
    state: dict[str, Any] = request.scope["state"]
    state[RECORD_KEY] = record
    state[IGNORED_KEY] = prepared.asked.ignored
    return Answer(
        generation=generation,
        renderer=renderer,
        record=record,
        stream=bool(fields.stream),
        keep_alive_s=service.settings.keep_alive_s,
        headers=_ignored_header(prepared.asked.ignored),
        on_end=service.note_end,
        interval=fields.stream_interval or 1,
        is_large=prepared.scoring is not None,
    )


def _used(record: RequestRecord) -> tuple[int, int]:
    """Tokens of prompt and answer that the client pays for: none where the server gave up before the first one."""
    if record.outcome is Outcome.FAILURE and not record.num_generated:
        return 0, 0
    return record.num_prompt_tokens, record.num_generated


def _scores_bytes(scoring: Scoring | None) -> int:
    return 0 if scoring is None else scoring.num_scores * _BYTES_PER_SCORE


async def _compiled(request: AnyRequest, service: Service, prepared: Prepared[Any]) -> Constraint | None:
    """The constraint of a demand, compiled on the compiler's thread; dropped when the client leaves meanwhile."""
    if prepared.demand is None:
        return None
    return await unless_gone(request.receive, _constraint(service.model, prepared, prepared.demand))


async def _constraint(model: ServedModel, prepared: Prepared[Any], demand: ConstraintSpec) -> Constraint:
    tokenizer, reasoning, budget = model.tokenizer, model.answers.reasoning, prepared.budget
    compiled = await asyncio.wrap_future(model.compiler.submit(demand))
    constraint: Constraint = compiled
    if prepared.opened is not None and reasoning is not None:
        behind_mark = replace(demand, part=prepared.opened)
        opened = await asyncio.wrap_future(model.compiler.submit(behind_mark))
        constraint = OpeningConstraint(compiled, opened, reasoning.begins, tokenizer.token_bytes)
    if budget is None:
        return constraint
    end_ids = tokenizer.encode(budget.end)
    return BudgetedConstraint(constraint, budget, end_ids=end_ids, token_bytes=tokenizer.token_bytes)


def _record(request: AnyRequest, prepared: Prepared[Any], arrival_ns: int) -> RequestRecord:
    fields: SamplingFields = prepared.asked.fields
    return RequestRecord(
        request_id=request_id_of(request),
        model=prepared.asked.model,
        num_prompt_tokens=sum(len(ids) for ids in prepared.prompts),
        num_choices=len(prepared.prompts) * fields.num_choices,
        max_tokens=prepared.sampling.max_tokens,
        stream=bool(fields.stream),
        arrival_ns=arrival_ns,
    )


def _options(service: Service, prepared: Prepared[Any], answer_id: str) -> AnswerOptions:
    fields, settings = prepared.asked.fields, service.settings
    names = TokenNames(service.model.tokenizer, as_ids=bool(fields.return_tokens_as_token_ids))
    return AnswerOptions(
        answer_id=answer_id,
        created_unix=int(time.time()),
        names=names if prepared.sampling.logprobs is not None else None,
        include_usage=fields.wants_usage_chunk or settings.force_include_usage,
        continuous_usage=bool(fields.stream_options and fields.stream_options.continuous_usage_stats),
        cached_tokens=settings.prompt_tokens_details,
        reasoning_tokens=prepared.form.reads_reasoning,
        stats=settings.per_request_stats,
        prompts=tuple(prepared.prompts) if fields.return_token_ids else None,
        fingerprint=service.model.fingerprint if settings.openai_strict_responses else UNSET,
    )


def _engine_requests(
    service: Service, prepared: Prepared[Any], constraint: Constraint | None, arrival_ns: int, cache_salt: str
) -> list[EngineRequest]:
    return [
        EngineRequest(
            request_id=new_id(""),
            prompt_ids=ids,
            sampling=prepared.sampling,
            eos_token_ids=service.model.eos_token_ids,
            n=prepared.asked.fields.num_choices,
            arrival_ns=arrival_ns,
            cache_salt=cache_salt,
            prompt_logprobs=None if prepared.scoring is None else prepared.scoring.num_top,
            constraint=constraint,
            watch_ends=constraint is not None and bool(prepared.asked.fields.stop),
            adapter=service.adapter_of(prepared.asked.model),
        )
        for ids in prepared.prompts
    ]


def _start(
    service: Service, prepared: Prepared[Any], requests: Sequence[EngineRequest], record: RequestRecord
) -> Generation:
    model, form = service.model, prepared.form
    constrained = prepared.demand is not None
    rules = text_rules(prepared.asked.fields, prepared.sampling, model.eos_token_ids, constrained=constrained)
    marks = model.answers.control_marks if form.new_parser is not None else {}
    rules = replace(rules, shown_ids=frozenset(marks.values()))
    # Where a constraint holds, marks stand in calls and around reasoning alone: in content their names are text.
    hidden = tuple(marks) if rules.skip_special_tokens and not constrained else ()

    def new_choice() -> ChoiceStream:
        return ChoiceStream(TextStream(model.tokenizer, rules), form, hidden_marks=hidden)

    blamed_field = None if prepared.demand is None else prepared.demand.field
    return Generation(service.engine, requests, new_choice, record.token, blamed_field)


def _ignored_header(ignored: Sequence[str]) -> tuple[tuple[bytes, bytes], ...]:
    if not ignored:
        return ()
    names = ",".join(quote(name, safe="") for name in ignored)
    return ((b"x-ignored-fields", names[:_MAX_HEADER_CHARS].encode("ascii")),)
