"""Texts keep the trust of each character through everything that templates do to them, and gain none.

The template's characters are letters and spaces here, a client's are digits: what an operation returns must be trusted
at the letters and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jinja2.sandbox import ImmutableSandboxedEnvironment

from runtime.text.template.environment import PieceEnvironment
from runtime.text.template.piece import Piece, Spans, joined, spans_of, trusted
from runtime.text.template.safe_piece import SafePiece, safe

OWN, CLIENT = "ab ", "12"
FEW = settings(max_examples=15)
PARTS = st.lists(st.one_of(st.text(OWN, min_size=1).map(trusted), st.text(CLIENT, min_size=1)), max_size=8)
KEEPING: dict[str, Callable[[str], str | list[str] | tuple[str, ...]]] = {
    "add": lambda text: text + "1" + text,
    "radd": lambda text: "1" + text,
    "times": lambda text: text * 3,
    "times_from_left": lambda text: 2 * text,
    "slice": lambda text: text[1:-2],
    "slice_beyond": lambda text: text[-3:99],
    "strip": lambda text: text.strip(),
    "strip_chars": lambda text: text.strip("a1"),
    "lstrip": lambda text: text.lstrip("1 "),
    "rstrip": lambda text: text.rstrip(),
    "removeprefix": lambda text: text.removeprefix("a"),
    "removesuffix": lambda text: text.removesuffix("1"),
    "split": lambda text: text.split(),
    "split_some": lambda text: text.split(maxsplit=1),
    "split_by": lambda text: text.split("1", 2),
    "split_by_two": lambda text: text.split("aa"),
    "rsplit": lambda text: text.rsplit(None, 1),
    "rsplit_by": lambda text: text.rsplit("a", 2),
    "splitlines": lambda text: text.replace("1", "\n").splitlines(),
    "splitlines_keeping": lambda text: text.splitlines(keepends=True),
    "partition": lambda text: text.partition("1"),
    "rpartition": lambda text: text.rpartition("b"),
    "replace_own": lambda text: text.replace("a", "22"),
    "replace_client": lambda text: text.replace("1", trusted("aa"), 2),
    "upper": lambda text: text.upper(),
    "lower": lambda text: text.lower(),
    "capitalize": lambda text: text.capitalize(),
    "title": lambda text: text.title(),
    "join": lambda text: trusted("a").join([text, "1", text]),
    "percent": lambda text: trusted("a%sb%sb%da") % (text, "1", 2),
    "percent_as_format": lambda text: text.replace("1", "%s") % (("2",) * text.count("1")),
    "percent_by_name": lambda text: trusted("%(x)sa%(y)s") % {"x": text, "y": "1"},
    "string": str,
    "item": lambda text: text[0] if text else text,
}


def own_positions(text: str) -> Spans:
    """Where letters and spaces stand, as spans."""
    return spans_of(joined([trusted(character) if character.lower() in OWN else character for character in text]))


@pytest.mark.parametrize("name", KEEPING)
@FEW
@given(parts=PARTS)
def test_operations_keep_each_character_s_trust(name: str, parts: list[str]) -> None:
    operation = KEEPING[name]
    text = joined(parts)
    found, plain = operation(text), operation("".join(map(str.__str__, parts)))
    assert found == plain
    for part in [found] if isinstance(found, str) else found:
        # A text without any span is a plain one, whose methods know nothing of Pieces.
        assert spans_of(part) in {own_positions(part), *([()] if not isinstance(text, Piece) else [])}


@FEW
@given(PARTS)
def test_what_is_not_overridden_is_untrusted(parts: list[str]) -> None:
    text = joined(parts)
    others = (text[::-1], text.center(20), text.casefold(), text.translate({}), text.swapcase(), Piece(text))
    assert all(spans_of(other) == () for other in others)
    assert spans_of("1".join([text, text])) == ()
    assert spans_of("%s1" % text) == ()  # noqa: UP031 - the operator is what templates use


@FEW
@given(PARTS)
def test_marked_up_texts_add_as_jinja2_s_do(parts: list[str]) -> None:
    text = joined(parts)
    found = safe(text) + "<" + text
    assert isinstance(found, SafePiece)
    assert found == f"{text}&lt;{text}"
    assert spans_of(text + found)[:1] == spans_of(text + text)[:1]
    assert all(character in OWN for start, end in spans_of(found) for character in found[start:end])
    assert spans_of(trusted("<") + safe("a")) == ()


def test_a_case_that_changes_length_is_untrusted() -> None:
    assert trusted("ß").upper() == "SS"
    assert spans_of(trusted("ß").upper()) == ()


def test_a_format_that_is_not_understood_is_untrusted() -> None:
    found = trusted("%*sa") % (5, "1")
    assert (found, spans_of(found)) == ("    1a", ())


SOURCES = [
    "{{ ('a{}' ~ x).format(y) }}{{ (x ~ '{}1'[:2]).format('b', y) }}",
    "a{{ x }}b{{ 'a' ~ x ~ y }}{{ x + 'b' + y }}",
    "{{ 'a%sb%s' % (x, y) }}{{ 'a%(k)s' | format(k=x) }}{{ '%5s|%%' | format(x) }}",
    "{{ 'a{}b{k}'.format(x, k=y) }}{{ '{0}{1:>4}{0!r}'.format(x, y) }}{{ '{0[0]}{{a'.format(x) }}",
    "{{ x.format('a') }}{{ '{k}a'.format_map({'k': x}) }}{{ '{:{}}'.format(x, 9) }}",
    "{{ [x, 'a', y] | join }}{{ [x, y] | join('b') }}{{ ['a', 'b'] | join(x) }}",
    "{% macro m(v, w='a') %}a{{ v }}{{ w }}{% endmacro %}{{ m(x) }}{{ m(x, y) | trim | upper }}",
    "{% set v %} a{{ x }} {% endset %}{{ v | trim }}{% filter upper %}a{{ y }}{% endfilter %}",
    "{% set ns = namespace(v='') %}{% for w in [x, 'a', y] %}{% set ns.v = ns.v + w + 'b' %}{% endfor %}{{ ns.v }}",
    "{{ ({'a': x, x: 'b'}) | tojson }}{{ [x, 'a'] }}{{ x | tojson | safe }}{{ ('a' | safe) + x + 'b' }}",
    "{{ (x ~ 'a b').split() | last }}{{ (x ~ 'a').replace('a', y) }}{{ x | replace('1', 'a') }}",
    "{{ x | length }}{{ x | reverse }}{{ ('a' ~ x) | list | join }}{{ ('a' ~ x)[::2] }}{{ x | e }}{{ x | indent }}",
    "{% generation %}a{{ x }}{% endgeneration %}{% call(v) m2() %}{{ v }}b{% endcall %}",
    "{% autoescape true %}a{{ x }}{{ 'b' ~ x }}{% endautoescape %}{{ x | default('a') }}{{ none_such | default('a') }}",
]


@pytest.mark.parametrize("source", SOURCES)
@FEW
@given(x=st.text("12<%{}\n ", min_size=1), y=st.text("12"))
def test_templates_render_as_jinja2_does_and_trust_only_their_own(source: str, x: str, y: str) -> None:
    source = "{% macro m2() %}{{ caller('a') }}{% endmacro %}" + source
    jinja2 = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[])
    ours = PieceEnvironment()
    jinja2.filters["tojson"] = ours.filters["tojson"]
    plain_source = source.replace("{% generation %}", "").replace("{% endgeneration %}", "")
    results = []
    for environment, text in ((ours, source), (jinja2, plain_source)):
        template = environment.from_string(text)
        try:
            results.append(joined(template.root_render_func(template.new_context({"x": x, "y": y}))))
        except (ValueError, IndexError, KeyError, TypeError) as error:  # a client's text as a format string
            results.append(type(error).__name__)
    assert results[0] == results[1]
    assert all(
        not set("12\n") & set(results[0][start:end]) for start, end in spans_of(results[0])
    )  # '<%{} ' stand in templates too
