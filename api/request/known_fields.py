"""Which top-level fields are known, ignored or refused, and the older ``nvext`` spelling.

A field that would change the answer is honoured or refused by name, never dropped: a dropped ``stop`` or schema is
worse than an error. Fields that only concern a hosted service's bookkeeping are ignored. Knows no types.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
from runtime.errors import RequestError

from api.request.body_limits import MAX_KEYS
from api.request.field_errors import describe

IGNORED = frozenset(
    {
        "user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_options",
        "prompt_cache_retention", "verbosity", "prediction", "request_id", "session_id",
    }
)  # fmt: skip
"""Accepted without effect and without a word: they concern storage, billing and caches of hosted services."""

_CHAT_ONLY = "only chat completions and responses have it"
REFUSED: Mapping[str, str] = {
    "audio": "this server generates text only",
    "web_search_options": "this server does not search the web",
    "moderation": "this server does not moderate",
    "functions": "use tools",
    "function_call": "use tool_choice",
    "tools": _CHAT_ONLY,
    "tool_choice": _CHAT_ONLY,
    "thinking_token_budget": _CHAT_ONLY,
    "suffix": "this server does not fill in the middle",
    "logprob_token_ids": "use logprobs and top_logprobs",
    "json_schema": "use response_format or structured_outputs.json",
    "regex": "use structured_outputs.regex",
    "ebnf": "use structured_outputs.grammar, in Lark",
    "grammar": "use structured_outputs.grammar, in Lark",
}
"""Field -> why. Ignoring one of these would change what the client gets."""

_ASKS_NOTHING: Mapping[str, object] = {"tools": [], "tool_choice": "none"}
"""Values of refused fields that change nothing: clients that always send the field send them."""

_NVEXT_NAMES = {"max_thinking_tokens": "thinking_token_budget"}


@dataclass(frozen=True, slots=True)
class SortedFields:
    """A request's fields after sorting: those with a meaning here, in document order, and names left out of account.

    ``refusal`` is the first field, if any, that is refused, with its place in the document.
    """

    known: dict[str, Any]
    ignored: tuple[str, ...]
    refusal: tuple[int, RequestError] | None
    positions: dict[str, int]


def sort_fields(
    fields: Mapping[str, Any], known_names: frozenset[str], *, strict: bool, refused: Mapping[str, str] = REFUSED
) -> SortedFields:
    """Sort top-level fields; null means absent. ``strict`` refuses unknown names instead of ignoring them.

    A known name is neither ignored nor refused.
    """
    flat, unknown_extensions = _without_nvext(fields, known_names)
    known: dict[str, Any] = {}
    ignored: list[str] = []
    refusals: list[tuple[int, RequestError]] = []
    positions = {name: position for position, name in enumerate(flat)}
    for name, value in flat.items():
        if value is None or (name in IGNORED and name not in known_names):
            continue
        if name == "modalities":
            if value != ["text"]:
                message = f"modalities: this server generates text only, got {describe(value)}"
                refusals.append((positions[name], RequestError(message, name)))
        elif name in known_names:
            known[name] = _integral(value)
        elif name in refused:
            if value != _ASKS_NOTHING.get(name):
                refusals.append((positions[name], RequestError(f"{name}: {refused[name]}", name)))
        elif strict:
            refusals.append((positions[name], unsupported(name)))
        else:
            ignored.append(name)
    return SortedFields(known, (*ignored, *unknown_extensions), min(refusals, default=None, key=_place), positions)


def unsupported(name: str) -> RequestError:
    """How an unknown field is refused where fields are strict."""
    return RequestError(f"Validation: Unsupported parameter(s): `{name[:64]}`", name[:64])


def _place(refusal: tuple[int, RequestError]) -> int:
    return refusal[0]


def _integral(value: object) -> object:
    """16.0 is the integer 16, also inside a list of numbers: some JSON writers know floats only."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list) and any(isinstance(item, float) for item in value):
        return [_integral(item) if isinstance(item, float) else item for item in value]
    return value


def _without_nvext(fields: Mapping[str, Any], known_names: frozenset[str]) -> tuple[dict[str, Any], list[str]]:
    """Lift the members of ``nvext``, NIM 1.x's wrapper for extensions, to the top level."""
    extensions: Any = fields.get("nvext")
    flat = {name: value for name, value in fields.items() if name != "nvext"}
    if extensions is None:
        return flat, []
    if not isinstance(extensions, dict):
        raise RequestError(f"nvext: expected an object, got {describe(extensions)}", "nvext")
    if len(extensions) > MAX_KEYS:
        raise RequestError(f"nvext: at most {MAX_KEYS} fields are allowed, got {len(extensions)}", "nvext")
    unknown = []
    for name, value in extensions.items():
        target = _NVEXT_NAMES.get(str(name), str(name))
        if target not in known_names and target not in REFUSED:
            unknown.append(f"nvext.{name}")
        elif flat.get(target) is not None and value is not None and not _same(flat[target], value):
            raise RequestError(f"nvext.{name} and {target} have different values; send one of them", f"nvext.{name}")
        elif value is not None:
            flat[target] = value
    return flat, unknown


def _same(first: object, second: object) -> bool:
    return msgspec.json.encode(first) == msgspec.json.encode(second)
