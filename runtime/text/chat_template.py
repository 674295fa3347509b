"""A model's chat template: messages in, prompt text out, inside a sandbox with bounds.

Owns the rendering environment: what Hugging Face's ``apply_chat_template`` offers a template (whitespace rules,
``raise_exception``, ``strftime_now``, ``tojson``, loop controls, the ``generation`` tag), and the limits on what a
template may cost. Templates come with models and are not trusted: minijinja runs its own instructions, reaches no
underscored attribute of a Python value, loads no file, and is handed nothing but plain JSON-like values. Knows no
tokenizer, no request and no HTTP.

Known differences from Jinja2, found with the templates of some seventy published models: a loop over none runs zero
times instead of failing, an undefined value is not ``iterable``, and ``safe`` marks nothing, so a text added to a safe
one stays as it is instead of being escaped for HTML.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import minijinja

from runtime.errors import TemplateError

# What templates get from the server; nobody may hand in a value of the same name.
RESERVED_NAMES = frozenset(
    {"messages", "tools", "documents", "add_generation_prompt", "raise_exception", "strftime_now"}
)

_NAME = "chat_template"
_END_MARK = "\ufdd3"  # a noncharacter: marks where an open last message ends
_GENERATION_TAG = re.compile(r"\{%([-+]?)\s*(end)?generation\s*([-+]?)%\}")
# What Python's own dict, list and str methods raise when a template misuses them; minijinja passes these on.
_FAILURES = (RuntimeError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError, MemoryError)


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateLimits:
    """Bounds of one rendering.

    ``fuel`` counts template instructions, so it bounds time whatever the machine's load (about 10 million a second).
    """

    source_chars: int = 1_000_000
    fuel: int = 5_000_000
    output_chars: int = 64_000_000


class ChatTemplate:
    """A compiled template. Raises TemplateError when the source cannot be compiled."""

    def __init__(
        self,
        source: str,
        *,
        limits: TemplateLimits | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now().astimezone(),
    ) -> None:
        self._limits = limits or TemplateLimits()
        if len(source) > self._limits.source_chars:
            raise TemplateError(
                f"the chat template has {len(source)} characters, allowed are {self._limits.source_chars}"
            )
        self._environment = _environment(self._limits, clock)
        try:
            self._environment.add_template(_NAME, _without_generation_tags(source))
            self.variables = frozenset(self._environment.undeclared_variables_in_template(_NAME))
        except _FAILURES as error:
            raise TemplateError(f"the chat template cannot be compiled: {_describe(error)}") from error
        self.knows_developer = "developer" in source

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        variables: Mapping[str, Any],
        tools: Sequence[Mapping[str, Any]] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
    ) -> str:
        """Prompt text of a conversation.

        ``variables`` are further names for the template (``bos_token``, ``enable_thinking``, ...).
        ``continue_final_message`` ends the prompt where the last message's content ends.
        Raises TemplateError with the template's own words when it calls ``raise_exception``.
        """
        given = [dict(message) for message in messages]
        if continue_final_message:
            given[-1]["content"] = str(given[-1].get("content") or "") + _END_MARK
        context = {name: value for name, value in variables.items() if name not in RESERVED_NAMES}
        text = self._run(
            {
                **context,
                "messages": given,
                "tools": None if tools is None else list(tools),
                "documents": None if documents is None else list(documents),
                "add_generation_prompt": add_generation_prompt and not continue_final_message,
            }
        )
        return _cut_at_mark(text) if continue_final_message else text

    def _run(self, context: dict[str, Any]) -> str:
        try:
            text = self._environment.render_template(_NAME, **context)
        except _RaisedByTemplateError as error:
            raise TemplateError(str(error)) from None
        except _FAILURES as error:
            raise TemplateError(f"the chat template failed: {_describe(error)}") from error
        if len(text) > self._limits.output_chars:
            allowed = self._limits.output_chars
            raise TemplateError(f"the chat template produced {len(text)} characters, allowed are {allowed}")
        return text


class _RaisedByTemplateError(Exception):
    """The template called ``raise_exception``."""


def _environment(limits: TemplateLimits, clock: Callable[[], datetime]) -> minijinja.Environment:
    # trim_blocks and lstrip_blocks as transformers' chat_template_utils sets them; no escaping, prompts are not HTML.
    return minijinja.Environment(
        debug=False,
        fuel=limits.fuel,
        undefined_behavior="lenient",
        auto_escape_callback=lambda _name: False,
        trim_blocks=True,
        lstrip_blocks=True,
        pycompat=True,
        filters={"tojson": _tojson},
        # minijinja calls none iterable; templates ask `tools is iterable and tools | length > 0` without tools.
        tests={"iterable": lambda value: isinstance(value, Iterable)},
        globals={
            "raise_exception": _raise_exception,
            "strftime_now": lambda pattern: clock().strftime(str(pattern)),
        },
    )


def _raise_exception(message: object = "") -> None:
    raise _RaisedByTemplateError(str(message))


def _tojson(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """``json.dumps`` with characters kept, in place of Jinja's filter, which escapes for HTML."""
    pair = None if separators is None else (separators[0], separators[1])
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=pair, sort_keys=sort_keys)


def _without_generation_tags(source: str) -> str:
    """``{% generation %}`` marks the assistant's words for training; for a prompt it means nothing."""
    return _GENERATION_TAG.sub(lambda tag: f"{{%{tag[1]} {'endif' if tag[2] else 'if true'} {tag[3]}%}}", source)


def _cut_at_mark(text: str) -> str:
    head, mark, _ = text.rpartition(_END_MARK)
    if not mark:
        raise TemplateError("the chat template drops the last message's content, so it cannot be continued")
    return head


def _describe(error: BaseException) -> str:
    if not isinstance(error, minijinja.TemplateError):
        return f"{type(error).__name__}: {error}"
    detail = f": {error.detail}" if error.detail else ""
    line = f" (line {error.line})" if error.line else ""
    return f"{error.kind}{detail}{line}"
