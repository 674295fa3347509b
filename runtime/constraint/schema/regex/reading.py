"""A pattern's tree -> the language of the texts in which it is found, which is what JSON Schema asks of ``pattern``.

A part's meaning is computed from the right: the texts that may follow a place, for each of the three contexts that a
place can have to its left (the text's start, a word character, any other), since ``^`` and ``\\b`` ask for no more.
"""

from __future__ import annotations

from runtime.constraint.schema.regex.characters import EVERY, WORD, common, others
from runtime.constraint.schema.regex.language import Languages
from runtime.constraint.schema.regex.syntax import (
    Ahead,
    Alternatives,
    Boundary,
    Group,
    Item,
    One,
    PatternRefused,
    Times,
    parsed_pattern,
)

Following = tuple[int, int, int]
"""The texts that may follow a place: at the text's start, after a word character, after another character."""
_NO_WORD = others(WORD)


def found(languages: Languages, pattern: str) -> int:
    """The language of all texts that a pattern is found in. Raises PatternRefused or LanguageTooLarge."""
    if pattern not in languages.read:
        languages.read[pattern] = _found(languages, pattern)
    return languages.read[pattern]


def _found(languages: Languages, pattern: str) -> int:
    anything = languages.anything
    start, word, other = _alternatives(languages, parsed_pattern(pattern), (anything, anything, anything))
    if start == word == other:
        return languages.sequence((anything, start))
    before_word = languages.sequence((anything, languages.of(WORD), word))
    before_other = languages.sequence((anything, languages.of(_NO_WORD), other))
    if word == other:
        return languages.either((start, languages.sequence((anything, languages.of(EVERY), word))))
    return languages.either((start, before_word, before_other))


def _alternatives(languages: Languages, tree: Alternatives, following: Following) -> Following:
    read = [_sequence(languages, items, following) for items in tree.sequences]
    start, word, other = (languages.either(options) for options in zip(*read, strict=True))
    return start, word, other


def _sequence(languages: Languages, items: tuple[Item, ...], following: Following) -> Following:
    for item in reversed(items):
        following = _item(languages, item, following)
    return following


def _item(languages: Languages, item: Item, following: Following) -> Following:
    if isinstance(item, Boundary):
        return _boundary(languages, item.kind, following)
    if isinstance(item, Ahead):
        anything = languages.anything
        ahead = _alternatives(languages, item.inner, (anything, anything, anything))
        wanted = ahead if item.wanted else tuple(languages.without(language) for language in ahead)
        start, word, other = (languages.both(pair) for pair in zip(following, wanted, strict=True))
        return start, word, other
    if not _holds_places(item):
        return _consumed(languages, _plain(languages, item), following)
    if isinstance(item, Group):
        return _alternatives(languages, item.inner, following)
    if isinstance(item, Times) and (item.least, item.most) == (0, 1) and isinstance(item.part, Group):
        once = _alternatives(languages, item.part.inner, following)
        start, word, other = (languages.either(pair) for pair in zip(once, following, strict=True))
        return start, word, other
    raise PatternRefused("repeats a group that holds ^, $, \\b or a look ahead")


def _boundary(languages: Languages, kind: str, following: Following) -> Following:
    start, word, other = following
    if kind == "^":
        return start, languages.nothing, languages.nothing
    if kind == "$":
        ends = [languages.both((languages.empty, language)) for language in following]
        return ends[0], ends[1], ends[2]
    goes_on = languages.sequence((languages.of(WORD), languages.anything))
    breaks_off = languages.without(goes_on)
    edge, none = (goes_on, breaks_off) if kind == "b" else (breaks_off, goes_on)
    return languages.both((start, edge)), languages.both((word, none)), languages.both((other, edge))


def _consumed(languages: Languages, part: int, following: Following) -> Following:
    """What may stand before ``following`` if ``part`` comes first: its last character is the context that follows."""
    start, word, other = following
    if start == word == other:
        joined = languages.sequence((part, start))
        return joined, joined, joined
    if word == other:
        after = languages.sequence((_not_empty(languages, part), word))
    else:
        endings = (_ending(languages, part, WORD), word), (_ending(languages, part, _NO_WORD), other)
        after = languages.either(languages.sequence(pair) for pair in endings)
    if not languages.nullable(part):
        return after, after, after
    return languages.either((after, start)), languages.either((after, word)), languages.either((after, other))


def _not_empty(languages: Languages, part: int) -> int:
    return languages.both((part, languages.without(languages.empty))) if languages.nullable(part) else part


def _ending(languages: Languages, part: int, characters: tuple[tuple[int, int], ...]) -> int:
    node = languages.nodes[part]
    if node.kind == "set":
        return languages.of(common(node.characters, characters))
    return languages.both((part, languages.sequence((languages.anything, languages.of(characters)))))


def _holds_places(item: Item) -> bool:
    if isinstance(item, Times):
        return _holds_places(item.part)
    if isinstance(item, Group):
        return any(_holds_places(inner) for items in item.inner.sequences for inner in items)
    return not isinstance(item, One)


def _plain(languages: Languages, item: Item) -> int:
    """The texts of a part without places in it."""
    if isinstance(item, One):
        return languages.of(common(item.characters, EVERY))
    if isinstance(item, Times):
        return languages.repeat(_plain(languages, item.part), item.least, item.most)
    if isinstance(item, Group):
        options = [languages.sequence([_plain(languages, one) for one in items]) for items in item.inner.sequences]
        return languages.either(options)
    raise PatternRefused("holds a place where none can be")
