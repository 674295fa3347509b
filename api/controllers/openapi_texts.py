"""What the description says of each operation beside its types: its group, a few sentences, and examples.

The examples stand in ``api/pages/files/examples.json``: requests as they are sent, and what the default model answered.
Knows no struct; ``tests/api/controllers/test_described_requests.py`` sends each and holds each answer to its schema.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import msgspec

from api.pages.packaged import packaged

_EXAMPLES = "files/examples.json"
_JSON, _EVENTS = "application/json", "text/event-stream"


class Example(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One example of an operation. ``answer`` is a body, or the text of a stream's events or of metrics."""

    summary: str
    request: dict[str, Any] | None = None
    answer: Any = None


@dataclass(frozen=True, slots=True)
class About:
    """An operation's group, and its meaning in some sentences of Markdown."""

    tag: str
    text: str


GENERATION, TEXT, SERVER, HEALTH = "Generate", "Prompts and tokens", "Model and server", "Health and metrics"
ADMIN = "Loading models"
TAGS: Mapping[str, str] = {
    GENERATION: "Answers of the model, whole or as a stream. `null` means absent for every field that is not required.",
    TEXT: "What a request looks like to the model. Nothing is generated.",
    SERVER: "What runs here.",
    HEALTH: "For whoever watches the server.",
    ADMIN: "For whoever operates a server of several models, with a key of its own; off without one.",
}

ABOUT: Mapping[str, About] = {
    "post /v1/chat/completions": About(
        GENERATION,
        "OpenAI's chat completions as NVIDIA NIM and vLLM extend them. With `stream` the answer comes as server-sent "
        "events, each of them a chunk, and ends with `data: [DONE]`. Only one field may say what the answer's text "
        "looks like (`response_format`, `structured_outputs`, `guided_*`). `tool_choice` goes with `tools`, "
        "`top_logprobs` with `logprobs`, `stream_options` with `stream`; `prompt_logprobs` without `stream`. Prompt "
        "and answer together must fit the model's length.",
    ),
    "post /v1/chat/completions/render": About(
        TEXT, "The body is a chat request. The answer holds its prompt as the model's template writes it, and its ids."
    ),
    "post /v1/completions": About(
        GENERATION,
        "OpenAI's text completions. With `echo` and `logprobs` the prompt's own tokens are scored as well; "
        "`max_tokens: 0`, allowed with `echo` or `prompt_logprobs`, only scores them.",
    ),
    "post /v1/responses": About(
        GENERATION,
        "OpenAI's Responses. Nothing is stored, so the whole conversation is sent each time. With `stream` the answer "
        "comes as named server-sent events.",
    ),
    "post /v1/messages": About(
        GENERATION,
        "Anthropic's Messages. A last message of the assistant is gone on with. With `stream` the answer comes as "
        "named server-sent events.",
    ),
    "post /v1/messages/count_tokens": About(TEXT, "The body is a request for a message."),
    "get /v1/models": About(SERVER, "Every name that a request may give as `model`; the first is the base name."),
    "get /v1/models/{model_id}": About(SERVER, "A name may hold slashes, as they are or as `%2F`."),
    "post /tokenize": About(
        TEXT, "The body holds a `prompt`, or is a chat request, whose prompt is rendered first. As vLLM has it."
    ),
    "post /detokenize": About(TEXT, "Control tokens are written out. As vLLM has it."),
    "get /v1/health/live": About(
        HEALTH, "200 from the moment the process listens, also while the model loads; 503 once its engine is dead."
    ),
    "get /v1/health/ready": About(
        HEALTH, "200 once a real generation has succeeded; 503 before, while the server shuts down, and afterwards."
    ),
    "get /v1/version": About(SERVER, "As NVIDIA NIM has it."),
    "get /v1/metadata": About(SERVER, "As NVIDIA NIM has it: the package's files, the model's licence and its source."),
    "get /v1/license": About(SERVER, "The text of the model's licence, as NVIDIA NIM has it."),
    "get /v1/manifest": About(SERVER, "The model package's manifest, as text."),
    "get /v1/admin/models": About(
        ADMIN,
        "Each model's state (`unloaded`, `loading`, `ready`, `failed`, `unloading`), limits and memory, and why one "
        "has failed; the first is the one that requests mean which name none.",
    ),
    "post /v1/admin/models/{name}/load": About(
        ADMIN,
        "Returns when the model is ready. A failed one is tried again. Models that serve nobody make room, the one "
        "used longest ago first; 409 with the arithmetic where that is not enough, and with the reason where loading "
        "fails.",
    ),
    "post /v1/admin/models/{name}/unload": About(
        ADMIN,
        "Returns when its memory is free. Running answers have the time that a shutdown gives them. A request that "
        "names the model loads it again, unless models are loaded by their operator alone (`load_models`).",
    ),
    "get /v1/metrics": About(HEALTH, "Counters, gauges and histograms in Prometheus' text format."),
}
"""By method and path."""


@cache
def examples() -> Mapping[str, Mapping[str, Example]]:
    """Examples of each operation, by method and path and then by name."""
    return msgspec.json.decode(packaged(_EXAMPLES), type=dict[str, dict[str, Example]])


def add_texts(key: str, operation: dict[str, Any], model: str | None) -> None:
    """Put group, text and examples of the operation ``key`` (method and path) into its description.

    ``model`` is the name that the requests have, None for none.
    """
    about = ABOUT[key]
    operation["tags"] = [about.tag]
    operation["description"] = about.text
    given = examples()[key]
    content = operation["responses"]["200"]["content"]
    for name, example in given.items():
        if example.request is not None:
            body = operation["requestBody"]["content"][_JSON]
            value = example.request if model is None else {"model": model, **example.request}
            body.setdefault("examples", {})[name] = {"summary": example.summary, "value": value}
        if example.answer is not None:
            kind = _EVENTS if (example.request or {}).get("stream") else next(iter(content))
            shown = content[kind].setdefault("examples", {})
            shown[name] = {"summary": example.summary, "value": example.answer}
    if model is not None:
        for parameter in operation.get("parameters", ()):
            parameter["example"] = model
