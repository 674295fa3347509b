"""Sets of strings: a list of texts, or a language with bounds on length in code points.

Knows languages; knows no other kind of value.
"""

from __future__ import annotations

from dataclasses import dataclass

from runtime.constraint.schema.document import JsonValue
from runtime.constraint.schema.formats import EXACT, FORMATS, LONGEST, OUTSIDE
from runtime.constraint.schema.lost import Lost, either
from runtime.constraint.schema.regex.characters import EVERY, WRITABLE
from runtime.constraint.schema.regex.language import Languages, LanguageTooLarge
from runtime.constraint.schema.regex.lengths import lengths
from runtime.constraint.schema.regex.reading import found
from runtime.constraint.schema.regex.spelling import MAX_POSITIONS, spelled
from runtime.constraint.schema.regex.syntax import PatternRefused
from runtime.errors import SchemaRefused

LONGEST_BOUND = 2**31 - 1
"""Larger bounds on length are drawn in to it, which the library can read."""
TOO_LARGE = f"is too large to be told apart: at most {MAX_POSITIONS:,} characters, and no large count beside others"


@dataclass(frozen=True, slots=True)
class Strings:
    """Texts of ``language`` with ``least`` to ``most`` code points, none of ``barred``.

    Only those of ``listed`` where it is not None, and then every one of them.
    """

    language: int
    least: int = 0
    most: int | None = None
    listed: tuple[str, ...] | None = None
    barred: frozenset[str] = frozenset()
    lost: Lost | None = None


def language_of(languages: Languages, keyword: str, pattern: str, place: str) -> int:
    """The language of the texts in which a client's pattern is found. Raises SchemaRefused."""
    try:
        return found(languages, pattern)
    except PatternRefused as error:
        raise SchemaRefused(keyword, place, f"{pattern[:80]!r} {error}") from error
    except LanguageTooLarge as error:
        raise SchemaRefused(keyword, place, f"{pattern[:80]!r} {TOO_LARGE}") from error


def strings_of(languages: Languages, keywords: dict[str, JsonValue], place: str) -> list[Strings]:
    """What the keywords on strings of one schema admit; beside a format that is not written in full, what it may be."""
    parts, most = [], _count(keywords, "maxLength")
    if "pattern" in keywords:
        parts.append(language_of(languages, "pattern", str(keywords["pattern"]), place))
    whole = Strings(languages.both(parts), _count(keywords, "minLength") or 0, most)
    sets = [joined(languages, whole, one) for one in _format(languages, str(keywords.get("format")), place)]
    return [one for one in sets if one is not None]


def _format(languages: Languages, name: str, place: str) -> list[Strings]:
    if name not in FORMATS:
        return [Strings(languages.anything)]
    sets = [Strings(found(languages, f"^(?:{FORMATS[name]})$"), most=LONGEST.get(name))]
    if name in OUTSIDE:
        lost = Lost("format", place, f"{name!r} is written in its plain forms alone", spare=True)
        sets.append(Strings(found(languages, OUTSIDE[name]), lost=lost))
    return sets


def check_together(languages: Languages, keywords: dict[str, JsonValue], place: str) -> None:
    """Raise SchemaRefused where no text satisfies the lengths of one schema, or them and one other of its keywords."""
    bounds: dict[str, JsonValue] = {key: keywords[key] for key in ("minLength", "maxLength") if key in keywords}
    said = " and ".join(f"{key} {value}" for key, value in bounds.items())
    if not strings_of(languages, bounds, place):
        raise SchemaRefused("maxLength", place, f"no text satisfies both {said}")
    for key in ("pattern", "format"):
        if key in keywords and not strings_of(languages, {key: keywords[key], **bounds}, place):
            asked = f"{str(keywords[key])[:80]!r}" + (f" together with {said}" if said else "")
            raise SchemaRefused(key, place, f"no text satisfies {asked}")


def listed(languages: Languages, text: str) -> Strings:
    """One text."""
    return Strings(languages.anything, listed=(text,))


def besides(languages: Languages, texts: list[str]) -> Strings:
    """Every text but these."""
    return Strings(languages.anything, barred=frozenset(texts))


def outside(languages: Languages, keywords: dict[str, JsonValue], place: str) -> list[Strings]:
    """Texts that fail at least one keyword on strings of a schema."""
    alternatives = []
    least, most = _count(keywords, "minLength"), _count(keywords, "maxLength")
    if least:
        alternatives.append(Strings(languages.anything, most=least - 1))
    if most is not None:
        alternatives.append(Strings(languages.anything, least=most + 1))
    if "pattern" in keywords:
        language = language_of(languages, "pattern", str(keywords["pattern"]), place)
        alternatives.append(Strings(languages.without(language)))
    name = str(keywords.get("format"))
    if name in EXACT:
        alternatives.append(Strings(languages.without(found(languages, f"^(?:{FORMATS[name]})$"))))
    elif name in FORMATS:
        problem = f"{name!r} cannot be negated; {', '.join(sorted(EXACT))} can"
        alternatives.append(Strings(languages.anything, lost=Lost("format", place, problem)))
    return alternatives


def joined(languages: Languages, one: Strings, other: Strings) -> Strings | None:
    """Texts in both sets; None where none is known to be."""
    most = _least(one.most, other.most)
    language = languages.both((one.language, other.language))
    barred = one.barred | other.barred
    strings = Strings(language, max(one.least, other.least), most, None, barred, either(one.lost, other.lost))
    if one.listed is None and other.listed is None:
        return strings if _may_hold(languages, strings) else None
    texts = one.listed if one.listed is not None else other.listed or ()
    if one.listed is not None and other.listed is not None:
        kept = set(other.listed)
        texts = tuple(text for text in texts if text in kept)
    texts = tuple(text for text in texts if holds(languages, strings, text))
    return Strings(languages.anything, listed=texts, lost=strings.lost) if texts else None


def _may_hold(languages: Languages, strings: Strings) -> bool:
    """False where no text is in the set, which is not ``listed``: by its language alone, or by its lengths."""
    if strings.language == languages.nothing:
        return False
    least, most = strings.least, strings.most
    if strings.language != languages.anything and (least or most is not None):
        fewest, many = lengths(languages, strings.language)
        least, most = max(least, fewest), _least(most, many)
    return most is None or least <= most


def _least(one: int | None, other: int | None) -> int | None:
    return other if one is None else one if other is None else min(one, other)


def holds(languages: Languages, strings: Strings, text: str) -> bool:
    """Whether a text has a length and a form of the set, which is not ``listed``."""
    fits = strings.least <= len(text) and (strings.most is None or len(text) <= strings.most)
    return fits and text not in strings.barred and languages.holds(strings.language, text)


def whole_language(languages: Languages, strings: Strings) -> int:
    """The language of a set that is not ``listed``, bounds and barred texts included."""
    lengths = languages.repeat(languages.of(EVERY), strings.least, strings.most)
    return languages.both((strings.language, lengths, _without_barred(languages, strings)))


def _without_barred(languages: Languages, strings: Strings) -> int:
    return languages.without(languages.either(languages.text(text) for text in sorted(strings.barred)))


def writable(text: str) -> bool:
    """Whether a JSON string can hold the text without escapes that the library's options leave out."""
    return all(any(low <= ord(character) <= high for low, high in WRITABLE) for character in text)


def schema_of(languages: Languages, strings: Strings, place: str) -> dict[str, JsonValue] | Lost:
    """The set as a schema that llguidance reads exactly, or why it cannot be written."""
    if strings.listed is not None:
        texts: list[JsonValue] = [text for text in strings.listed if writable(text)]
        return {"enum": texts} if texts else Lost("enum", place, "lists only texts with control characters")
    if strings.least > LONGEST_BOUND:
        return Lost("minLength", place, f"asks for {strings.least:,} characters, at most {LONGEST_BOUND:,} are allowed")
    schema: dict[str, JsonValue] = {"type": "string"}
    if strings.least:
        schema["minLength"] = strings.least
    if strings.most is not None:
        schema["maxLength"] = min(strings.most, LONGEST_BOUND)
    language = languages.both((strings.language, _without_barred(languages, strings)))
    if language != languages.anything:
        try:
            patterns = spelled(languages, language)
        except LanguageTooLarge:
            return Lost("pattern", place, TOO_LARGE)
        schema["pattern"] = patterns[0]
        if len(patterns) > 1:
            schema["allOf"] = [{"type": "string", "pattern": pattern} for pattern in patterns[1:]]
    return schema


def _count(keywords: dict[str, JsonValue], key: str) -> int | None:
    value = keywords.get(key)
    return int(value) if isinstance(value, int | float) else None
