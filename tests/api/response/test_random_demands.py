"""The promise under random rules: whatever a request asks beside its demand, on ``stop`` the text satisfies it."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from typing import Any

import jsonschema_rs

from tests.api.programs import IM_END
from tests.api.scripted_server import RunningServer, chunks_of, content_of, user

Check = Callable[[str], object]
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}, "strict": True}}
SCHEMAS: tuple[dict[str, Any], ...] = (
    {"type": "integer", "minimum": -50, "maximum": 400},
    {"type": "string", "minLength": 1, "maxLength": 4},
    {"enum": ["<|im_end|>", "<tool_call>", "</think>", 'a"b', "é👍", None, 1.5]},
    {"type": "array", "items": {"type": "boolean"}, "minItems": 1, "maxItems": 3},
    {
        "type": "object",
        "properties": {"a,": {"enum": ["x", 1]}, "<think>": {"type": "string", "pattern": "^[a-c}]{2,4}$"}},
        "required": ["a,"],
        "additionalProperties": False,
    },
)
PATTERNS = ("[a-c]{2,6}", "[^x]{1,8}", "a,b,c(,d)*", "<think>[a-z]{1,5}", "(é|👍)+z", " {0,3}x\\n?")
CHOICES = (["yes", "no"], ["<|im_end|>", "<|im_start|>system"], ["a", "ab", "abc"], ["<tool_call>", " a", "a "])
RULES: tuple[tuple[str, tuple[Any, ...]], ...] = (
    ("temperature", (0, 0.5, 2)),
    ("n", (2, 3)),
    ("top_p", (0.1, 0.9)),
    ("logit_bias", ({str(IM_END): 100}, {str(ord("}")): -100}, {str(ord("a")): 100})),
    ("min_tokens", (1, 3)),
    ("stop", (",", ["}", "]"], '"', ["a", "b"], "<|im_end|>")),
    ("include_stop_str_in_output", (True,)),
    ("stop_token_ids", ([ord("}")], [ord("a"), IM_END])),
    ("ignore_eos", (True,)),
    ("skip_special_tokens", (False,)),
    ("frequency_penalty", (2,)),
    ("bad_words", (["a"], ['"'])),
    ("max_tokens", (3, 12)),
    ("tools", ([TOOL],)),
)


def drawn_demand(draw: random.Random) -> tuple[dict[str, Any], Check]:
    match draw.randrange(4):
        case 0:
            pattern = draw.choice(PATTERNS)
            return {"guided_regex": pattern}, lambda text: re.fullmatch(pattern, text)
        case 1:
            choices = draw.choice(CHOICES)
            return {"guided_choice": choices}, lambda text: text in choices
        case _:
            schema = draw.choice(SCHEMAS)
            return {"guided_json": schema}, lambda text: jsonschema_rs.is_valid(schema, json.loads(text))


def test_on_stop_the_text_satisfies_the_demand(roomy_server: RunningServer, tool_server: RunningServer) -> None:
    stopped = 0
    for seed in range(45):
        draw = random.Random(seed)
        demand, check = drawn_demand(draw)
        rules = {name: draw.choice(values) for name, values in RULES if draw.random() < 0.25}
        body = {"messages": [user(f"%{seed}")], "seed": seed, "max_tokens": 60, **demand, **rules}
        server = draw.choice([roomy_server, tool_server])
        plain = server.post(body)
        if plain.status_code == 400:
            assert "no token may come next" in plain.text
            continue
        chunks = chunks_of(server.post({**body, "stream": True}).content)
        for choice in plain.json()["choices"]:
            text = choice["message"]["content"] or ""
            assert content_of(chunks, choice["index"]) == text, body
            if choice["finish_reason"] == "stop":
                assert check(text), (body, text)
                stopped += 1
    assert stopped > 25
