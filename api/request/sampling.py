"""From validated request fields to what the engine and the text side need. Checks token ids against the vocabulary.

Knows the model's defaults and vocabulary; knows no prompt text and no response shape.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from runtime.errors import RequestError
from runtime.request import SamplingParams
from runtime.text.text_stream import TextRules
from runtime.text.tokenizer import Tokenizer

from api.request.sampling_fields import SamplingFields
from api.served_model import ServedModel

MAX_LOGIT_BIAS = 100.0
_MAX_NAMED = 8  # ids named in one message


def sampling_params(
    fields: SamplingFields, model: ServedModel, *, max_tokens: int, logprobs: int | None
) -> SamplingParams:
    """The engine's sampling rules. Raises RequestError naming ids outside the vocabulary or a broken rule."""
    vocab_size = model.tokenizer.vocab_size
    min_tokens = fields.min_tokens or 0
    if min_tokens > max_tokens:
        raise RequestError(f"min_tokens: {min_tokens} is more than the {max_tokens} tokens allowed", "min_tokens")
    defaults = model.defaults
    params = SamplingParams(
        max_tokens=max_tokens,
        min_tokens=min_tokens,
        temperature=_first(fields.temperature, defaults.temperature, 1.0),
        top_p=_first(fields.top_p, defaults.top_p, 1.0),
        top_k=max(0, int(_first(fields.top_k, defaults.top_k, 0))),
        min_p=_first(fields.min_p, defaults.min_p, 0.0),
        frequency_penalty=fields.frequency_penalty or 0.0,
        presence_penalty=fields.presence_penalty or 0.0,
        repetition_penalty=_first(fields.repetition_penalty, defaults.repetition_penalty, 1.0),
        logit_bias=_logit_bias(fields.logit_bias or {}, vocab_size),
        bad_words=_bad_words(fields.bad_words or [], model.tokenizer),
        allowed_token_ids=_distinct_ids(fields.allowed_token_ids or [], "allowed_token_ids", vocab_size),
        stop_token_ids=frozenset(_distinct_ids(fields.stop_token_ids or [], "stop_token_ids", vocab_size)),
        ignore_eos=bool(fields.ignore_eos),
        seed=fields.seed,
        logprobs=logprobs,
    )
    _check_that_tokens_are_left(params, vocab_size, model.eos_token_ids)
    return params


def text_rules(
    fields: SamplingFields, sampling: SamplingParams, eos_token_ids: frozenset[int], *, constrained: bool = False
) -> TextRules:
    """The text side's rules of the same request. A constrained text always ends with an end token.

    ``spaces_between_special_tokens`` needs no rule: text is the tokens' bytes, to which nothing adds spaces.
    """
    stop = fields.stop
    ends_by_itself = constrained or not sampling.ignore_eos
    return TextRules(
        stops=(stop,) if isinstance(stop, str) else tuple(stop or ()),
        include_stop=bool(fields.include_stop_str_in_output),
        skip_special_tokens=fields.skip_special_tokens is not False,
        min_tokens=sampling.min_tokens,
        end_token_ids=sampling.stop_token_ids | (eos_token_ids if ends_by_itself else frozenset()),
        constrained=constrained,
    )


def truncate_prompt(ids: Sequence[int], fields: SamplingFields, max_model_len: int) -> tuple[int, ...]:
    """The prompt cut to ``truncate_prompt_tokens``; -1 stands for the whole context."""
    limit = fields.truncate_prompt_tokens
    if limit is None:
        return tuple(ids)
    if limit > max_model_len:
        message = f"truncate_prompt_tokens: {limit} is more than the context of {max_model_len} tokens"
        raise RequestError(message, "truncate_prompt_tokens")
    kept = max_model_len if limit == -1 else limit
    return tuple(ids[:kept] if fields.truncation_side == "right" else ids[-kept:])


def _first(asked: float | None, default: float | None, fallback: float) -> float:
    if asked is not None:
        return asked
    return fallback if default is None else default


def _distinct_ids(ids: Sequence[int], field: str, vocab_size: int) -> tuple[int, ...]:
    """Each id once: a body has room for millions of one id, and every choice would sort them."""
    bad = [token_id for token_id in ids if not 0 <= token_id < vocab_size]
    if bad:
        raise RequestError(f"{field}: {_named(bad)} not in the vocabulary of {vocab_size} tokens", field)
    return tuple(dict.fromkeys(ids))


def _check_that_tokens_are_left(params: SamplingParams, vocab_size: int, eos_token_ids: frozenset[int]) -> None:
    """Raise RequestError unless some token is never banned, so that every step has one to draw.

    A bad word of several tokens bans its last one after the others only. That it is taken for banned throughout may
    refuse a request that would never meet the word, but whether it would is known too late to refuse it.
    """
    if not (params.allowed_token_ids or params.bad_words or params.min_tokens):
        return
    allowed = frozenset(params.allowed_token_ids)
    of_what = "allowed_token_ids" if allowed else "the vocabulary"

    def leaves_none(banned: frozenset[int]) -> bool:
        return allowed <= banned if allowed else len(banned) >= vocab_size

    banned = frozenset(words[-1] for words in params.bad_words)
    if leaves_none(banned):
        raise RequestError(f"bad_words: they may leave no token of {of_what}; at least one must stay free", "bad_words")
    if params.min_tokens and leaves_none(banned | params.stop_token_ids | eos_token_ids):
        message = f"min_tokens: until then tokens that end an answer are banned, which leaves none of {of_what}"
        raise RequestError(message, "min_tokens")


def _logit_bias(given: Mapping[str, Any], vocab_size: int) -> tuple[tuple[int, float], ...]:
    not_ids, outside, not_numbers = [], [], []
    biases = {}
    for key, value in given.items():
        if not (key.isascii() and key.removeprefix("-").isdecimal() and len(key) <= 20):
            not_ids.append(key[:32])
        elif not 0 <= int(key) < vocab_size:
            outside.append(int(key))
        elif isinstance(value, bool) or not isinstance(value, int | float):
            not_numbers.append(key)
        else:
            biases[int(key)] = min(MAX_LOGIT_BIAS, max(-MAX_LOGIT_BIAS, float(value)))
    faults = []
    if not_ids:
        faults.append(f"{_named(not_ids)} not a token id")
    if outside:
        faults.append(f"{_named(outside)} not in the vocabulary of {vocab_size} tokens")
    if not_numbers:
        faults.append(f"the bias of {_named(not_numbers)} not a number")
    if faults:
        raise RequestError(f"logit_bias: {'; '.join(faults)}", "logit_bias")
    return tuple(biases.items())


def _named(items: Sequence[object]) -> str:
    shown = ", ".join(str(item) for item in items[:_MAX_NAMED])
    more = f" and {len(items) - _MAX_NAMED} more" if len(items) > _MAX_NAMED else ""
    return f"{shown}{more} {'are' if len(items) > 1 else 'is'}"


def _bad_words(words: Sequence[str], tokenizer: Tokenizer) -> tuple[tuple[int, ...], ...]:
    """Token ids of each word at a text's start and after a space, as vLLM bans both forms.

    A tokenizer may know tokens that the model has no logit for (Gemma 3's does): no answer holds them.
    """
    banned: dict[tuple[int, ...], None] = {}
    for index, word in enumerate(words):
        if not word.strip():
            raise RequestError("bad_words: an empty word cannot be banned", f"bad_words.{index}")
        for form in (word.lstrip(), " " + word.lstrip()):
            ids = tokenizer.encode_plain(form)
            if ids and max(ids) < tokenizer.vocab_size:
                banned[tuple(ids)] = None
    return tuple(banned)
