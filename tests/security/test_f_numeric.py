"""Numbers from clients: each is served or refused by name, and none ends a generation or the engine.

Repeats the causes of vLLM's CVE-2026-34756 (`n` without a bound), PYSEC-2026-4350 (too many log-probabilities),
CVE-2026-54235 (a temperature of NaN or infinity) and CVE-2026-93989 (an index from `bad_words` that corrupts others'
logits), and of llama.cpp's CVE-2026-21869 (a negative count).
"""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from api.request.sampling import sampling_params
from api.request.validation import RequestRules, validate_completion
from api.served_model import ServedModel
from runtime.constraint.compiler import ConstraintCompiler
from runtime.errors import RequestError
from runtime.request import Request
from runtime.sampling.sampler import Sampled, SamplerState, sample
from runtime.text.chat_template import ChatTemplate
from runtime.text.template.process import TemplateWorker
from runtime.text.tokenizer import Tokenizer
from tests.api.programs import IM_END, TEMPLATE, VOCAB_SIZE, tokenizer_json
from tests.api.scripted_server import RunningServer, user
from tests.runtime.sampling.sample_rows import KINDS, row

TOKENIZER = Tokenizer(tokenizer_json(), VOCAB_SIZE)
MODEL = ServedModel(
    names=("tiny",),
    created_unix=0,
    fingerprint="fp_0",
    max_model_len=256,
    tokenizer=TOKENIZER,
    template=ChatTemplate(TEMPLATE, TemplateWorker()),
    eos_token_ids=frozenset({IM_END}),
    compiler=ConstraintCompiler(TOKENIZER.vocabulary({IM_END})),
)
NUMBERS = (
    0, 1, -1, 2, 20, 21, 128, 129, 256, 512, 2**31, 2**63 - 1, 2**63, 2**64 - 1, 2**64, -(2**63), -(2**63) - 1,
    0.0, -0.0, 0.5, 0.95, 1.0, 2.0, 1e-5, 9e-6, 1e-45, 5e-324, 2.2e-308, 0.01, 100.0, 1 - 1e-9, 1 - 1e-16,
    1e16, 1e38, 1e308, -1e308,
)  # fmt: skip
WRONG_KINDS: tuple[Any, ...] = (True, False, None, "1", "", [], {}, [1.0], [None], [[]])
NUMERIC_FIELDS = (
    "max_tokens", "temperature", "top_p", "n", "frequency_penalty", "presence_penalty", "seed", "top_k", "min_p",
    "repetition_penalty", "min_tokens", "length_penalty", "best_of", "prompt_logprobs", "truncate_prompt_tokens",
    "priority", "stream_interval", "logprobs",
)  # fmt: skip
LIST_FIELDS = ("stop_token_ids", "allowed_token_ids")
ANY_NUMBER = st.sampled_from(NUMBERS) | st.floats(allow_nan=False, allow_infinity=False) | st.integers()
ANY_VALUE = ANY_NUMBER | st.sampled_from(WRONG_KINDS)
SOME_IDS = st.sampled_from([0, 1, ord("a"), ord("b"), IM_END, VOCAB_SIZE - 1])
IDS = st.lists(SOME_IDS, min_size=1, max_size=4) | st.just(list(range(VOCAB_SIZE)))
WORDS = st.lists(st.sampled_from(["a", "b", "ab", "ba", "aa", "a" * 300, "é"]), min_size=1, max_size=4)
BIASES = st.dictionaries(SOME_IDS.map(str), st.sampled_from(NUMBERS), max_size=3)
SENSIBLE: dict[str, st.SearchStrategy[Any]] = {
    "max_tokens": st.integers(1, 8),
    "temperature": st.sampled_from([0, 9e-6, 1e-5, 0.7, 2]),
    "top_p": st.sampled_from([5e-324, 1e-9, 0.5, 1 - 1e-16, 1]),
    "top_k": st.sampled_from([-1, 0, 1, 511, 512, 513, 2**63, 1e308]),
    "min_p": st.sampled_from([0, 5e-324, 1e-45, 0.1, 1]),
    "repetition_penalty": st.sampled_from([0.01, 1, 1.1, 100]),
    "frequency_penalty": st.sampled_from([-2, 5e-324, 2]),
    "presence_penalty": st.sampled_from([-2, -5e-324, 2]),
    "min_tokens": st.integers(0, 8),
    "seed": st.sampled_from([0, -1, -(2**63), 2**63 - 1]),
    "logprobs": st.integers(0, 5),
    "ignore_eos": st.booleans(),
    "logit_bias": BIASES,
    "bad_words": WORDS,
    "allowed_token_ids": IDS,
    "stop_token_ids": IDS,
}
"""Ranges in which most values are legal, so that combinations of rules get past validation."""


def as_sent(body: dict[str, Any]) -> dict[str, Any]:
    """The body after a trip through JSON, as the server sees it."""
    decoded: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(body))
    return decoded


def params_of(body: dict[str, Any]) -> Any:
    """The engine's rules for a body. Raises RequestError, and nothing else, for what is refused."""
    fields = validate_completion(as_sent({"prompt": "x", **body}), RequestRules(served_names=("tiny",))).fields
    asked = min(fields.max_tokens or 16, 200)
    return sampling_params(fields, MODEL, max_tokens=asked, logprobs=fields.logprobs)


@settings(max_examples=80, deadline=None)
@given(st.fixed_dictionaries({}, optional=dict.fromkeys((*NUMERIC_FIELDS, *LIST_FIELDS), ANY_VALUE)))
@example({"max_tokens": 1e308})
def test_any_value_in_any_numeric_field_is_refused_by_name_or_legal(body: dict[str, Any]) -> None:
    refusal: RequestError | None = None
    try:
        params_of(body)
    except RequestError as error:
        refusal = error
    if refusal is not None:
        assert (refusal.field or "").split(".")[0] in body
        assert len(str(refusal)) < 4096


@st.composite
def adversarial_rows(draw: st.DrawFn) -> np.ndarray:
    """A row of finite logits, or one with masked ones, up to far beyond what any model gives."""
    kind = draw(st.sampled_from([kind for kind in KINDS if kind != "masked"]))
    logits = row(kind, draw(st.integers(0, 2**16)), VOCAB_SIZE)
    scale = np.float32(draw(st.sampled_from([0.0, 1e-38, 1.0, 1e4, 1e25])))
    return logits * scale + np.float32(draw(st.sampled_from([0.0, -1e4, 1e4])))


@settings(max_examples=100, deadline=None)
@given(st.fixed_dictionaries({}, optional=SENSIBLE), adversarial_rows())
@example({"min_p": 5e-324}, np.zeros(VOCAB_SIZE, np.float32))
@example({"allowed_token_ids": [IM_END], "min_tokens": 2}, np.zeros(VOCAB_SIZE, np.float32))
@example({"allowed_token_ids": [97], "bad_words": ["aa"]}, np.zeros(VOCAB_SIZE, np.float32))
@example({"stop_token_ids": list(range(VOCAB_SIZE)), "min_tokens": 1}, np.zeros(VOCAB_SIZE, np.float32))
@example({"repetition_penalty": 0.01, "temperature": 1e-5}, np.full(VOCAB_SIZE, 1e26, np.float32))
def test_what_is_accepted_draws_a_token_in_every_step(body: dict[str, Any], logits: np.ndarray) -> None:
    try:
        params = params_of(body)
    except RequestError:
        return
    request = Request(request_id="r", prompt_ids=(97, 98), sampling=params, eos_token_ids=frozenset({IM_END}))
    state = SamplerState(request, 0)
    for step in range(min(params.max_tokens, 8)):
        token = sample(logits[None].copy(), [state])[0]
        assert isinstance(token, Sampled), (params, step)
        assert token.token_id in (params.allowed_token_ids or range(VOCAB_SIZE))
        assert step >= params.min_tokens or token.token_id not in params.stop_token_ids | {IM_END}


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"allowed_token_ids": [IM_END], "min_tokens": 2, "max_tokens": 4}, "min_tokens"),
        ({"allowed_token_ids": [97], "stop_token_ids": [97], "min_tokens": 1}, "min_tokens"),
        ({"stop_token_ids": list(range(VOCAB_SIZE)), "min_tokens": 1}, "min_tokens"),
        ({"allowed_token_ids": [97, 98], "bad_words": ["a", "b"]}, "bad_words"),
        ({"allowed_token_ids": [97], "bad_words": ["aa"]}, "bad_words"),
        ({"logit_bias": {"97": True}}, "logit_bias"),
        ({"logit_bias": {"1e3": 1}}, "logit_bias"),
        ({"logit_bias": {str(2**63): 1}}, "logit_bias"),
        ({"top_k": -2}, "top_k"),
        ({"n": 2**63}, "n"),
        ({"min_tokens": 1e308}, "min_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"seed": 2**63}, "seed"),
        ({"allowed_token_ids": [0, -1]}, "allowed_token_ids"),
        ({"top_p": 0.0}, "top_p"),
        ({"top_p": -0.0}, "top_p"),
    ],
    ids=str,
)
def test_a_client_mistake_is_a_400_that_names_the_field(
    server: RunningServer, body: dict[str, Any], field: str
) -> None:
    response = server.post({"messages": [user("ok")], **body})
    assert (response.status_code, response.json()["error"]["param"]) == (400, field), response.text


@pytest.mark.parametrize(
    "body",
    [
        {"min_p": 5e-324},
        {"top_p": 5e-324, "min_p": 1, "top_k": 2**62},
        {"top_k": 1e308},
        {"temperature": -0.0},
        {"temperature": 1e-5, "repetition_penalty": 0.01},
        {"logit_bias": {"97": 1e308, "98": -1e308}},
        {"allowed_token_ids": [97] * 30_000, "n": 4, "max_tokens": 2},
        {"bad_words": ["a" * 256] * 300, "max_tokens": 3},
        {"allowed_token_ids": [97, 98], "bad_words": ["a"], "min_tokens": 3, "max_tokens": 4},
        {"seed": -(2**63), "frequency_penalty": 5e-324},
    ],
    ids=",".join,
)
def test_an_extreme_that_is_legal_is_served(server: RunningServer, body: dict[str, Any]) -> None:
    response = server.post({"messages": [user("?")], "max_tokens": 5, "temperature": 1, **body})
    assert response.status_code == 200, response.text


@pytest.mark.parametrize("text", [b"NaN", b"Infinity", b"-Infinity", b"1e400", b"1" + b"0" * 400, b"1" * 5000, b"0x1"])
@pytest.mark.parametrize("field", ["temperature", "max_tokens"])
def test_what_json_cannot_carry_is_a_400(server: RunningServer, field: str, text: bytes) -> None:
    body = b'{"messages":[{"role":"user","content":"ok"}],"%s":%s}' % (field.encode(), text)
    assert server.post(body).status_code == 400
