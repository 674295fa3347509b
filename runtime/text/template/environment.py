"""Jinja2 as transformers sets it up, with every text of the template a trusted ``Piece``.

Owns the dialect: whitespace rules, ``raise_exception``, ``tojson``, loop controls, the ``generation`` tag, and Jinja2's
own sandbox, which refuses underscored attributes and changes to lists and dicts. The compiler is told to write each
literal of a template as a name for a ``Piece``; what a template computes at compile time can only come from its
literals. Values from outside are never touched, so they stay untrusted. Runs in the worker process only.
"""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from jinja2 import Environment, nodes
from jinja2.compiler import CodeGenerator, Frame
from jinja2.ext import Extension, loopcontrols
from jinja2.filters import do_join
from jinja2.nodes import EvalContext
from jinja2.parser import Parser
from jinja2.runtime import Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment, SandboxedFormatter
from jinja2.utils import pass_eval_context

from runtime.text.template.piece import Piece, joined, spans_of, trusted
from runtime.text.template.safe_piece import safe


class RaisedByTemplateError(Exception):
    """The template called ``raise_exception``. The text is the template's."""


class PieceCodeGenerator(CodeGenerator):
    """Writes the template's texts as names of Pieces, and ``~`` as a join that keeps their spans."""

    def __init__(self, environment: Environment, name: str | None, defer_init: bool) -> None:
        self._source = io.StringIO()
        # The optimizer would fold literals into values before this generator sees them.
        super().__init__(environment, name, None, self._source, defer_init, optimized=False)
        self._names: dict[str, str] = {}

    def source(self) -> str:
        """The module's source, the Pieces at its end: functions look them up when they run."""
        pieces = (f"{name} = environment.literal({text!r})" for text, name in self._names.items())
        return "\n".join([self._source.getvalue(), *pieces, ""])

    def visit_Const(self, node: nodes.Const, frame: Frame) -> None:  # noqa: N802 - Jinja2 looks for this name
        """A literal of an expression."""
        if type(node.value) is str:
            self.write(self._name(node.value))
        else:
            super().visit_Const(node, frame)

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:  # noqa: N802 - Jinja2 looks for this name
        """The ``~`` operator."""
        if frame.eval_ctx.volatile or frame.eval_ctx.autoescape:
            super().visit_Concat(node, frame)
            return
        self.write("environment.concat(map(str, (")
        for operand in node.nodes:
            self.visit(operand, frame)
            self.write(", ")
        self.write(")))")

    def _output_const_repr(self, group: Iterable[Any]) -> str:
        return self._name("".join(group))

    def _name(self, text: str) -> str:
        return self._names.setdefault(str(text), f"piece_{len(self._names)}")


class PieceEnvironment(ImmutableSandboxedEnvironment):
    """transformers' environment (``chat_template_utils._compile_jinja_template``) over Pieces."""

    concat = staticmethod(joined)
    literal = staticmethod(trusted)

    def __init__(self) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, loopcontrols])
        self.filters["tojson"] = _tojson
        self.filters["join"] = _join
        self.filters["safe"] = safe
        self.globals["raise_exception"] = _raise_exception

    def _generate(
        self, source: nodes.Template, name: str | None, filename: str | None, defer_init: bool = False
    ) -> str:
        generator = PieceCodeGenerator(self, name, defer_init)
        generator.visit(source)
        return generator.source()

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:  # noqa: ANN401 - any attribute's value
        """``str.format`` inside the sandbox, as Jinja2 wraps it, of a Piece with its spans."""
        wrapped = super().wrap_str_format(value)
        if wrapped is None or not isinstance(value.__self__, Piece):
            return wrapped
        piece = value.__self__
        is_map = value.__name__ == "format_map"

        def formatted(*args: Any, **kwargs: Any) -> str:  # noqa: ANN401 - whatever a template formats
            text = wrapped(*args, **kwargs)
            given: tuple[Sequence[Any], Mapping[str, Any]] = ((), args[0]) if is_map else (args, kwargs)
            found = joined(_format_parts(SandboxedFormatter(self), piece, *given))
            return found if found == text else str.__str__(text)

        return formatted


class _GenerationTag(Extension):
    """``{% generation %}`` marks the assistant's words for training; for a prompt it only opens a scope."""

    tags = {"generation"}  # noqa: RUF012 - Jinja2's own declaration

    def parse(self, parser: Parser) -> nodes.Node:
        """The block's body as the body of a call, as transformers compiles it."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_said"), [], [], body).set_lineno(line)

    def _said(self, caller: Macro) -> str:
        return str(caller())


def _format_parts(
    formatter: SandboxedFormatter, piece: Piece, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Iterator[str]:
    """What ``format`` joins. A format string that is not the template's own throughout gives no trust."""
    is_own = spans_of(piece) == ((0, len(piece)),)
    numbers = itertools.count()
    for literal, name, spec, conversion in formatter.parse(piece):
        yield trusted(literal) if is_own else str.__str__(literal)
        if name is None:
            continue
        value, _ = formatter.get_field(name or str(next(numbers)), args, kwargs)
        if spec or conversion:
            # Nested fields in a specification are left alone: the caller notices that the texts differ.
            yield (
                ""
                if spec and "{" in spec
                else formatter.format_field(formatter.convert_field(value, conversion), spec or "")
            )
        else:
            yield value if isinstance(value, str) else formatter.format_field(value, "")


@pass_eval_context
def _join(eval_ctx: EvalContext, value: Iterable[Any], d: str = "", attribute: str | int | None = None) -> str:
    """Jinja2's filter; with no separator it would join by a text that knows nothing of spans."""
    return str(do_join(eval_ctx, value, d or Piece(), attribute))


def _raise_exception(message: object = "") -> None:
    raise RaisedByTemplateError(str(message))


def _tojson(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """``json.dumps`` with characters kept, in place of Jinja's filter, which escapes for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
