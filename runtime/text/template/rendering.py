"""Runs one job after another: compiles each template once, renders it, and says in one line what went wrong.

Owns what a template sees (its variables and whose words they are) and where a continued message ends. Runs in the
worker process only; knows no pipe.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any

from jinja2 import Template, TemplateSyntaxError
from jinja2.meta import find_undeclared_variables
from jinja2.utils import object_type_repr

from runtime.text.template.environment import PieceEnvironment, RaisedByTemplateError
from runtime.text.template.piece import Piece, joined, spans_of, trusted
from runtime.text.template.wire import Job, Rendering, TemplateLimits

ROLES = frozenset({"system", "developer", "user", "assistant", "tool", "function"})
"""Roles that the API itself names; templates build control tokens of them (``'<|' + message.role + '|>'``)."""

_END_MARK = "\ufdd3"  # a noncharacter: marks where an open last message ends
_CACHED_TEMPLATES = 16
_MAX_ERROR_CHARS = 1000


@dataclass(frozen=True, slots=True)
class _Compiled:
    template: Template
    variables: frozenset[str]


class _RefusedError(Exception):
    """A limit was exceeded, or the template does not fit the job. The text is the whole answer."""


class Renderer:
    """Renders jobs within limits. One job at a time."""

    def __init__(self, limits: TemplateLimits) -> None:
        self._limits = limits
        self._environment = PieceEnvironment()
        self._compiled = lru_cache(_CACHED_TEMPLATES)(self._compile)

    def run(self, job: Job) -> Rendering:
        """The rendering, or its error. Raises nothing: whatever a template does is an answer."""
        try:
            compiled = self._compiled(job.source)
        except Exception as error:  # noqa: BLE001 - whatever a template provokes in the compiler is its failure
            return Rendering(error=f"the chat template cannot be compiled: {_describe(error, _syntax_line(error))}")
        if job.messages is None:
            return Rendering()
        try:
            text = self._output(compiled.template, _context(job, compiled.variables))
            text = _cut_at_mark(text) if job.continue_final_message else text
        except RaisedByTemplateError as error:
            return Rendering(error=str.__str__(str(error))[:_MAX_ERROR_CHARS])
        except _RefusedError as error:
            return Rendering(error=str(error))
        except Exception as error:  # noqa: BLE001 - whatever a template raises is its failure
            described = _describe(error, _runtime_line(error, compiled.template))
            return Rendering(error=f"the chat template failed: {described}")
        return Rendering(text=str.__str__(text), spans=spans_of(text))

    def _compile(self, source: str) -> _Compiled:
        variables = find_undeclared_variables(self._environment.parse(source))
        return _Compiled(self._environment.from_string(source), frozenset(variables))

    def _output(self, template: Template, context: dict[str, Any]) -> str:
        return joined(self._bounded(template.root_render_func(template.new_context(context))))

    def _bounded(self, chunks: Iterator[str]) -> Iterator[str]:
        size, allowed = 0, self._limits.output_chars
        for chunk in chunks:
            size += len(chunk)
            if size > allowed:
                raise _RefusedError(f"the chat template produced more than the {allowed} characters that are allowed")
            yield chunk


def _context(job: Job, known: frozenset[str]) -> dict[str, Any]:
    messages = [_with_own_role(message) for message in job.messages or ()]
    if job.continue_final_message:
        messages[-1]["content"] = _marked(messages[-1].get("content"))
    now = datetime.fromisoformat(job.now)
    return {
        **{name: trusted(text) for name, text in job.server_texts.items()},
        **{name: value for name, value in job.implied.items() if name in known},
        **job.variables,
        "messages": messages,
        "tools": job.tools,
        "documents": job.documents,
        "add_generation_prompt": job.add_generation_prompt and not job.continue_final_message,
        "strftime_now": lambda pattern: now.strftime(str.__str__(pattern)),
    }


def _marked(content: Any) -> Any:  # noqa: ANN401 - text or parts
    """A content whose end can be found again in the rendering."""
    if isinstance(content, list) and content:
        *before, last = content
        return [*before, {**last, "text": str(last.get("text") or "") + _END_MARK}]
    return str(content or "") + _END_MARK


def _with_own_role(message: Mapping[str, Any]) -> dict[str, Any]:
    role = message.get("role")
    return {**message, "role": trusted(role)} if isinstance(role, str) and role in ROLES else dict(message)


def _cut_at_mark(text: str) -> str:
    head, mark, _ = text.rpartition(_END_MARK)
    if not mark:
        raise _RefusedError("the chat template drops the last message's content, so it cannot be continued")
    return head


def _describe(error: BaseException, line: int | None) -> str:
    words = " ".join(str(error).split()).replace(object_type_repr(Piece()), "str object")
    if len(words) > _MAX_ERROR_CHARS:
        words = words[:_MAX_ERROR_CHARS] + "..."
    place = f" (line {line})" if line else ""
    return f"{type(error).__name__}{': ' if words else ''}{words}{place}"


def _syntax_line(error: BaseException) -> int | None:
    return error.lineno if isinstance(error, TemplateSyntaxError) else None


def _runtime_line(error: BaseException, template: Template) -> int | None:
    """The template's line that was running: its code is the deepest frame that carries its file name."""
    line, trace = None, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == "<template>":
            line = template.get_corresponding_lineno(trace.tb_lineno)
        trace = trace.tb_next
    return line
