"""Text while tokens arrive: whole characters, stop strings, and equality with the text of the whole."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.events import TokenEvent
from runtime.text.text_stream import TextDelta, TextRules, TextStream
from runtime.text.tokenizer import Tokenizer
from tests.api.programs import CONTROL, IM_END, IM_START, PIECE_IDS, VOCAB_SIZE, tokenizer_json

TOKENIZER = Tokenizer(tokenizer_json(), VOCAB_SIZE)


def event(token_id: int) -> TokenEvent:
    return TokenEvent("r", 0, token_id, None)


def run(token_ids: list[int], rules: TextRules) -> list[TextDelta]:
    """All pieces; ends at a stop string as a caller would."""
    stream = TextStream(TOKENIZER, rules)
    pieces = []
    for token_id in token_ids:
        delta = stream.push(event(token_id))
        if delta is not None:
            pieces.append(delta)
            if delta.stop is not None:
                return pieces
    return [*pieces, stream.finish()]


def text_of(pieces: list[TextDelta]) -> str:
    return "".join(piece.text for piece in pieces)


def test_a_character_over_four_tokens_comes_in_one_piece() -> None:
    pieces = run(list("a😀b".encode()), TextRules())
    assert [piece.text for piece in pieces] == ["a", "😀", "b", ""]
    assert [len(piece.tokens) for piece in pieces] == [1, 4, 1, 0]


def test_invalid_bytes_become_one_replacement_for_each_ill_formed_part() -> None:
    # F0 9F is one truncated sequence, FF stands alone, E2 82 is truncated by the end.
    assert text_of(run([0xF0, 0x9F, ord("a"), 0xFF, 0xE2, 0x82], TextRules())) == "\ufffda\ufffd\ufffd"


def test_stop_inside_a_piece_cuts_inside_it() -> None:
    ids = [PIECE_IDS["vol"], PIECE_IDS["unteer"], PIECE_IDS[" or"], PIECE_IDS["gani"], PIECE_IDS["zation"]]
    pieces = run(ids, TextRules(stops=("gani",)))
    assert text_of(pieces) == "volunteer or"
    assert pieces[-1].stop == "gani"
    assert sum(len(piece.tokens) for piece in pieces) == 4


def test_only_a_proper_prefix_of_a_stop_string_is_held_back() -> None:
    pieces = run(list(b"xababac"), TextRules(stops=("abac",)))
    # "ab", "aba" are held; "abab" releases its first two letters and holds "ab" again.
    assert [piece.text for piece in pieces] == ["x", "ab", ""]
    assert pieces[-1].stop == "abac"
    assert [len(piece.tokens) for piece in pieces] == [1, 4, 2]


def test_held_text_comes_out_when_the_choice_ends_otherwise() -> None:
    assert [piece.text for piece in run(list(b"x<st"), TextRules(stops=("<stop>",)))] == ["x", "<st"]


def test_the_stop_string_may_be_kept() -> None:
    pieces = run(list(b"abcd"), TextRules(stops=("bc",), include_stop=True))
    assert text_of(pieces) == "abc"


def test_no_stop_begins_in_the_text_of_the_first_min_tokens() -> None:
    pieces = run(list(b"abcabc"), TextRules(stops=("b", "cab"), min_tokens=3))
    assert text_of(pieces) == "abca"
    assert pieces[-1].stop == "b"


def test_end_tokens_have_no_text_but_are_accounted_for() -> None:
    rules = TextRules(skip_special_tokens=False, end_token_ids=frozenset({IM_END}))
    pieces = run([97, CONTROL, IM_END], rules)
    assert text_of(pieces) == "a<|control|>"
    assert [token.token_id for piece in pieces for token in piece.tokens] == [97, CONTROL, IM_END]


@given(st.text(max_size=40), st.lists(st.text(min_size=1, max_size=5), max_size=4))
def test_any_text_with_any_stops_is_cut_at_the_earliest_match(text: str, stops: list[str]) -> None:
    pieces = run(list(text.encode()), TextRules(stops=tuple(stops)))
    starts = [place for stop in stops if (place := text.find(stop)) >= 0]
    # A stop string is complete when its last byte arrives, so the match that ends first is found first.
    ends = [(place + len(stop), place) for stop in stops if (place := text.find(stop)) >= 0]
    expected = text if not starts else text[: min(start for end, start in ends if end == min(ends)[0])]
    assert text_of(pieces) == expected


@given(st.lists(st.integers(0, VOCAB_SIZE - 1), max_size=40))
def test_any_tokens_give_the_text_of_their_joined_bytes(token_ids: list[int]) -> None:
    pieces = run(token_ids, TextRules(skip_special_tokens=False))
    whole = b"".join(TOKENIZER.token_bytes(token_id) for token_id in token_ids)
    assert text_of(pieces) == whole.decode("utf-8", errors="replace")
    assert text_of(pieces) == TOKENIZER.decode(token_ids, skip_special_tokens=False)
    assert [token.token_id for piece in pieces for token in piece.tokens] == token_ids


@pytest.mark.model
def test_the_default_model_decodes_like_its_library(default_package: object) -> None:
    from runtime.package.manifest import Package

    assert isinstance(default_package, Package)
    tokenizer = Tokenizer.from_package(default_package)
    text = "Grüße, 你好 👩‍👩‍👧‍👦!\n\n  def f(x):\r\n\treturn x  # 1234567 naïve ﷽"
    ids = tokenizer.encode(text)
    stream = TextStream(tokenizer, TextRules())
    pieces = [stream.push(event(token_id)) for token_id in ids]
    assert "".join(piece.text for piece in pieces if piece) + stream.finish().text == text == tokenizer.decode(ids)


def constrained(text: bytes, satisfied: set[int], rules: TextRules) -> list[TextDelta]:
    """The pieces of ``text``, a byte a token, whose first bytes satisfy the constraint in these lengths."""
    stream = TextStream(TOKENIZER, rules)
    pieces = []
    for place, byte in enumerate(text):
        ends = tuple(length - place for length in (place, place + 1) if length in satisfied)
        delta = stream.push(TokenEvent("r", 0, byte, None, 0, ends))
        pieces += [delta] if delta is not None else []
        if delta is not None and delta.stop is not None:
            return pieces
    return [*pieces, stream.finish()]


@pytest.mark.parametrize("include_stop", [False, True])
@pytest.mark.parametrize("length", range(11))
def test_under_a_constraint_a_stop_string_cuts_only_what_satisfies_it(length: int, include_stop: bool) -> None:
    rules = TextRules(stops=("ab", "b"), include_stop=include_stop, constrained=True)
    pieces = constrained(b"xabyabzzab", {length}, rules)
    # Of "ab" and of "b" each begins, and ends, at three places.
    cuts = {3: "ab", 6: "ab", 10: "ab"} if include_stop else {1: "ab", 2: "b", 4: "ab", 5: "b", 8: "ab", 9: "b"}
    assert pieces[-1].stop == cuts.get(length)
    assert text_of(pieces) == ("xabyabzzab"[:length] if length in cuts else "xabyabzzab")


def test_a_refused_stop_string_is_shown_at_once_but_for_the_beginning_of_another() -> None:
    pieces = constrained(b"abxba", set(), TextRules(stops=("ab", "bxc"), constrained=True))
    assert [piece.text for piece in pieces] == ["a", "bx", "b", "a"]
    pieces = constrained(b"abc", set(), TextRules(stops=("ab", "xyz"), constrained=True))
    assert [piece.text for piece in pieces] == ["ab", "c", ""]


def test_a_stop_string_may_begin_inside_a_token_where_the_text_satisfies_its_constraint() -> None:
    ids = [PIECE_IDS["vol"], PIECE_IDS["unteer"], 0xC3, 0xA9, ord("u")]
    for ends, shown in (((1, 3), "volunt"), ((2,), "volunteer\u00e9u")):  # of "unteer": u|nt|eer
        stream = TextStream(TOKENIZER, TextRules(stops=("eer", "u"), constrained=True))
        pieces = []
        for place, token_id in enumerate(ids):
            delta = stream.push(TokenEvent("r", 0, token_id, None, 0, ends if place == 1 else ()))
            pieces += [delta] if delta is not None else []
            if delta is not None and delta.stop is not None:
                break
        else:
            pieces.append(stream.finish())
        assert text_of(pieces) == shown


def test_no_cut_inside_a_character_nor_before_text_that_is_not_seen() -> None:
    half = constrained("\u00e9x".encode(), {1}, TextRules(stops=("\u00e9",), constrained=True))
    assert text_of(half) == "\u00e9x"
    for after in (False, True):
        stream = TextStream(TOKENIZER, TextRules(stops=("x",), constrained=True))
        ends = (0, len(TOKENIZER.token_bytes(IM_START))) if after else (0,)
        stream.push(TokenEvent("r", 0, ord("a"), None, 0, (1,)))
        stream.push(TokenEvent("r", 0, IM_START, None, 0, ends))
        delta = stream.push(TokenEvent("r", 0, ord("x"), None, 0, (0,) if after else ()))
        assert delta is not None
        assert (delta.stop == "x") == after


def test_end_tokens_never_show_under_a_constraint() -> None:
    rules = TextRules(include_stop=True, end_token_ids=frozenset({IM_END, ord("}")}), skip_special_tokens=False)
    for end in (IM_END, ord("}")):
        assert text_of(run([ord("a"), end], rules)) != "a"
        hiding = TextRules(
            include_stop=True, end_token_ids=rules.end_token_ids, skip_special_tokens=False, constrained=True
        )
        assert text_of(run([ord("a"), end], hiding)) == "a"


def test_the_second_of_two_stop_strings_in_one_token_ends_where_the_first_must_not() -> None:
    stream = TextStream(TOKENIZER, TextRules(stops=("e",), constrained=True))
    delta = stream.push(TokenEvent("r", 0, PIECE_IDS["unteer"], None, 0, (4,)))
    assert delta is not None
    assert (delta.text, delta.stop) == ("unte", "e")
