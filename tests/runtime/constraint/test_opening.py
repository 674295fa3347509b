"""An answer that begins with a mark of reasoning is held as it is read: what follows satisfies the demand."""

from __future__ import annotations

import random

import pytest

from runtime.constraint.compiler import ConstraintCompiler
from runtime.constraint.opening import OpeningConstraint
from runtime.constraint.spec import Either, Json, Lark, Part, Pattern, Tag, Tagged
from runtime.errors import ConstraintFailed
from runtime.text.reasoning.forms import FORMS, ReasoningForm, Section
from runtime.text.reasoning.parser import ContentParser, ReasoningParser
from runtime.token_mask import Matcher
from tests.runtime.constraint.walks import END_IDS, TOKENIZER, allowed, compiled
from tests.runtime.text.tool_calls.answers import read

ENDS_IN_MARK = Lark("start: /(.|\\n)*!/")
TAG = Tag("<q>", Json('{"enum":[1,"</think>\\n\\n<q>2"]}'), "</q>", "<q")
TAGS = Tagged((TAG,), at_least_one=True)
SPELLED = ReasoningForm("spelled", ("<|im_start|>",), "</think>", gap="")  # a control token, or text that looks like it
FORM = FORMS["think"]


def opening(compiler: ConstraintCompiler, part: Part, form: ReasoningForm = FORM) -> OpeningConstraint:
    opened = form.opened(part, Section.POSSIBLE)
    assert opened is not None
    undecided = compiled(compiler, form.before(part, Section.POSSIBLE))
    return OpeningConstraint(undecided, compiled(compiler, opened), form.begins, TOKENIZER.token_bytes)


def after(matcher: Matcher, text: str) -> Matcher:
    for token_id in text.encode():
        matcher.start()
        assert matcher.wait(60)
        matcher.mask()
        matcher.commit(token_id)
    return matcher


def may_end(constraint: OpeningConstraint, text: str) -> bool:
    matcher = after(constraint.matcher(), text)
    ids = allowed(matcher)  # type: ignore[arg-type]
    assert matcher.may_end == (END_IDS[0] in ids)
    matcher.close()
    return matcher.may_end


def test_what_begins_with_the_mark_ends_where_the_text_behind_the_section_does(compiler: ConstraintCompiler) -> None:
    grammar = opening(compiler, ENDS_IN_MARK)
    assert may_end(grammar, "<thinx!")
    assert may_end(grammar, " <think>!")
    assert may_end(grammar, "<think!")
    assert not may_end(grammar, "<think>!")
    assert not may_end(grammar, "<think>!</think>\n\n")
    assert not may_end(grammar, "<think>!</think>\n\na")
    assert may_end(grammar, "<think>!</think>\n\n<think>!")
    tags = opening(compiler, TAGS)
    assert may_end(tags, "<th<q>1</q>")
    assert not may_end(tags, "<think><q>1</q>")
    with pytest.raises(ConstraintFailed):  # as text within a tag's string it could have come
        may_end(tags, '<think><q>"</think>\n\n<q>2')
    assert may_end(tags, "<think></think>\n\n<think><q>1</q>")


def test_a_mark_that_is_spelled_opens_the_section_that_a_control_token_opens(compiler: ConstraintCompiler) -> None:
    constraint = opening(compiler, ENDS_IN_MARK, SPELLED)
    assert may_end(constraint, "<|im_starT|>!")
    assert not may_end(constraint, "<|im_start|>!")
    assert may_end(constraint, "<|im_start|></think>!")
    undecided = compiled(compiler, SPELLED.before(ENDS_IN_MARK, Section.POSSIBLE))
    before = undecided._num_tokens
    matcher = after(constraint.matcher(), "<|im_start|>")
    assert undecided._num_tokens == before + len("<|im_start|>")  # given back as soon as it is decided
    matcher.close()


def test_nothing_ends_and_nothing_is_guessed_while_the_mark_may_come(compiler: ConstraintCompiler) -> None:
    matcher = after(opening(compiler, Lark('start: "<think>" "!"?')).matcher(), "<think")
    assert (matcher.forced(), matcher.num_allowed(list(b">!"))) == ([], 0)
    assert matcher.ends_within(ord(">")) == ()  # the grammar's text, but read as reasoning
    after(matcher, "></think>\n\n")
    matcher.start()
    assert matcher.wait(60)
    assert bytes(matcher.forced()).startswith(b"<think")
    assert matcher.num_allowed(list(b"<think>!")) == 8
    after(matcher, "<think")
    assert matcher.ends_within(ord(">")) == (1,)
    matcher.close()


@pytest.mark.parametrize(
    "part", [ENDS_IN_MARK, TAGS, Either((Pattern("[a-c!]{1,9}"), ENDS_IN_MARK))], ids=["l", "t", "e"]
)
@pytest.mark.parametrize("form", [FORM, SPELLED], ids=["think", "spelled"])
def test_whatever_is_wished_the_content_satisfies_the_demand(
    compiler: ConstraintCompiler, part: Part, form: ReasoningForm
) -> None:
    constraint, alone = opening(compiler, part, form), compiled(compiler, part)
    pieces = [*form.begins, form.end, form.gap, "!", "<q", "<q>1</q>", '<q>"', "</q>", "<th", "a", "\n"]
    num_ended = num_reasoned = 0
    for seed in range(40):
        drawn, matcher = random.Random(seed), constraint.matcher()
        begin, ending = drawn.choice([form.begins[0], ""]), f"{form.end}{form.gap}<q>1</q>!"
        wish = list("".join([begin, *drawn.choices(pieces, k=5), ending]).encode())
        text = b""
        while len(text) < 160:
            ids = allowed(matcher)  # type: ignore[arg-type]
            wished = wish[0] if wish else END_IDS[0]
            token_id = wished if wished in ids else drawn.choice(ids)
            del wish[: token_id == wished or len(ids) > 9]
            if token_id in END_IDS:
                break
            text += TOKENIZER.token_bytes(token_id)
            matcher.commit(token_id)
        else:
            continue
        matcher.close()
        answer = read(ReasoningParser(form, Section.POSSIBLE, ContentParser(), exact=True), [text.decode()])
        assert alone.matcher(after=answer.content.encode()).may_end, text
        num_ended, num_reasoned = num_ended + 1, num_reasoned + bool(answer.reasoning)
    assert num_ended > 15
    assert num_reasoned > 3


def test_a_text_that_the_open_section_does_not_admit_ends_its_choice(compiler: ConstraintCompiler) -> None:
    constraint = compiled(compiler, Pattern("ab+"))
    assert allowed(constraint.matcher(after=b"ab")) == [ord("b"), *END_IDS]
    with pytest.raises(ConstraintFailed, match="does not begin as the constraint demands"):
        constraint.matcher(after=b"ba")


def test_only_what_cannot_be_written_apart_has_two_constraints() -> None:
    for part in (Json("{}"), Pattern("a"), Tagged(()), Either((Json("{}"), Pattern("a")))):
        assert FORM.opened(part, Section.POSSIBLE) is None
    for section in (Section.OPEN, Section.CLOSED):
        assert FORM.opened(ENDS_IN_MARK, section) is None
    assert FORMS["gpt_oss"].opened(ENDS_IN_MARK, Section.POSSIBLE) is None
    assert FORM.opened(Either((Json("{}"), TAGS)), Section.POSSIBLE) is not None


def test_one_token_is_asked_of_the_constraint_that_holds(compiler: ConstraintCompiler) -> None:
    matcher = after(opening(compiler, ENDS_IN_MARK).matcher(), "<think>a")
    matcher.start(lazily=True)
    assert [matcher.is_deferred, matcher.admits(ord("!")), matcher.is_deferred] == [True, True, False]
    matcher.commit(ord("!"))
