"""Sets of numbers: an interval, whole or not, of multiples or not.

All arithmetic is exact. Knows no other kind of value; knows which bounds llguidance reads exactly.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from fractions import Fraction

from runtime.constraint.schema.document import JsonValue
from runtime.constraint.schema.lost import Lost, either

LARGEST = 2**53
"""Bounds beyond it are drawn in to it: a double holds every whole number up to there, and so does the library."""
_LARGEST_DOUBLE = 10**308
_MOST_STEP = 2**32 - 1
_SMALLEST = 10**60
"""Bounds are drawn in to so many decimals: the library nests a group for each digit and cannot read a hundred."""


@dataclass(frozen=True, slots=True)
class Numbers:
    """Numbers from ``low`` to ``high`` (None: no bound), themselves left out where open, that are multiples of step."""

    whole: bool = False
    low: Fraction | None = None
    low_open: bool = False
    high: Fraction | None = None
    high_open: bool = False
    step: Fraction | None = None
    lost: Lost | None = None


def exact(value: JsonValue) -> Fraction:
    """The number that a JSON text wrote: a double's shortest decimal form, not its binary value."""
    return Fraction(value) if isinstance(value, int) else Fraction(repr(value))


def numbers_of(keywords: dict[str, JsonValue], *, whole: bool) -> list[Numbers]:
    """What the numeric keywords of one schema admit: one set, or none."""
    numbers = Numbers(whole)
    for key, is_open in (("minimum", False), ("exclusiveMinimum", True)):
        if key in keywords:
            numbers = _joined(numbers, Numbers(low=exact(keywords[key]), low_open=is_open))
    for key, is_open in (("maximum", False), ("exclusiveMaximum", True)):
        if key in keywords:
            numbers = _joined(numbers, Numbers(high=exact(keywords[key]), high_open=is_open))
    step = exact(keywords["multipleOf"]) if "multipleOf" in keywords else None
    found = joined(numbers, Numbers(step=step))
    return [] if found is None else [found]


def point(value: JsonValue) -> Numbers:
    """One number."""
    number = exact(value)
    return Numbers(low=number, high=number)


def besides(value: JsonValue) -> list[Numbers]:
    """Every number but one."""
    number = exact(value)
    return [Numbers(high=number, high_open=True), Numbers(low=number, low_open=True)]


def outside(keywords: dict[str, JsonValue], place: str) -> list[Numbers]:
    """Numbers that fail at least one numeric keyword of a schema."""
    alternatives = []
    if "minimum" in keywords:
        alternatives.append(Numbers(high=exact(keywords["minimum"]), high_open=True))
    if "exclusiveMinimum" in keywords:
        alternatives.append(Numbers(high=exact(keywords["exclusiveMinimum"])))
    if "maximum" in keywords:
        alternatives.append(Numbers(low=exact(keywords["maximum"]), low_open=True))
    if "exclusiveMaximum" in keywords:
        alternatives.append(Numbers(low=exact(keywords["exclusiveMaximum"])))
    if "multipleOf" in keywords:
        alternatives.append(Numbers(lost=Lost("multipleOf", place, "cannot be negated; bound the number instead")))
    return alternatives


def joined(one: Numbers, other: Numbers) -> Numbers | None:
    """Numbers in both sets; None where there are none."""
    numbers = _joined(one, other)
    return None if _is_empty(numbers) else numbers


def _joined(one: Numbers, other: Numbers) -> Numbers:
    low, low_open, high, high_open = one.low, one.low_open, one.high, one.high_open
    if other.low is not None and (low is None or (other.low, other.low_open) > (low, low_open)):
        low, low_open = other.low, other.low_open
    if other.high is not None and (high is None or (-other.high, other.high_open) > (-high, high_open)):
        high, high_open = other.high, other.high_open
    step = one.step or other.step
    if one.step and other.step:
        step = _common_multiple(one.step, other.step)
    return Numbers(one.whole or other.whole, low, low_open, high, high_open, step, either(one.lost, other.lost))


def _common_multiple(one: Fraction, other: Fraction) -> Fraction:
    scale = math.lcm(one.denominator, other.denominator)
    return Fraction(math.lcm(int(one * scale), int(other * scale)), scale)


def _is_empty(numbers: Numbers) -> bool:
    if numbers.low is None or numbers.high is None:
        return False
    if numbers.low > numbers.high or (numbers.low == numbers.high and (numbers.low_open or numbers.high_open)):
        return True
    grid = _common_multiple(numbers.step or Fraction(1), Fraction(1)) if numbers.whole else numbers.step
    if not grid:
        return False
    first = math.ceil(numbers.low / grid)
    first += 1 if numbers.low_open and first * grid == numbers.low else 0
    last = math.floor(numbers.high / grid)
    last -= 1 if numbers.high_open and last * grid == numbers.high else 0
    return first > last


def the_only(numbers: Numbers) -> int | float | None:
    """The number of a set of one, where a double and the library write it exactly; else None."""
    value = numbers.low
    if value is None or value != numbers.high:
        return None
    if value.denominator == 1 and abs(value) <= LARGEST:
        return int(value)
    if abs(value) > _LARGEST_DOUBLE:
        return None
    number = float(value)
    return number if Fraction(repr(number)) == value else None


def schema_of(numbers: Numbers, place: str) -> dict[str, JsonValue] | Lost | None:
    """The set as a schema that llguidance reads exactly, None where nothing is left, or why it cannot be written.

    Draws in bounds that a double or the library's 64-bit arithmetic would round; the set can only shrink by that.
    """
    if numbers.low is not None and numbers.low == numbers.high:
        value = the_only(numbers)
        return Lost("const", place, "is a number that no double holds") if value is None else {"const": value}
    numbers = _drawn_in(numbers)
    beyond = (numbers.low or 0) > LARGEST or (numbers.high or 0) < -LARGEST
    if beyond or _is_empty(numbers):
        return Lost(
            "minimum",
            place,
            f"leaves only numbers that are not written: beyond 2**53 = {LARGEST:,}, or of over 60 decimals",
        )
    schema: dict[str, JsonValue] = {"type": "integer" if numbers.whole else "number"}
    if numbers.low is not None:
        schema["exclusiveMinimum" if numbers.low_open else "minimum"] = _number(numbers.low)
    if numbers.high is not None:
        schema["exclusiveMaximum" if numbers.high_open else "maximum"] = _number(numbers.high)
    if numbers.step:
        step = _multiple(numbers.step)
        if step is None:
            return Lost("multipleOf", place, f"has too many digits; a decimal below {_MOST_STEP:,} units is allowed")
        schema["multipleOf"] = step
    return schema


def _drawn_in(numbers: Numbers) -> Numbers:
    low, high = numbers.low, numbers.high
    low_open, high_open = numbers.low_open, numbers.high_open
    if numbers.whole:
        if low is not None:
            low, low_open = Fraction(math.floor(low) + 1 if low_open else math.ceil(low)), False
        if high is not None:
            high, high_open = Fraction(math.ceil(high) - 1 if high_open else math.floor(high)), False
    if low is not None and low.denominator > _SMALLEST:
        low, low_open = Fraction(math.ceil(low * _SMALLEST), _SMALLEST), False
    if high is not None and high.denominator > _SMALLEST:
        high, high_open = Fraction(math.floor(high * _SMALLEST), _SMALLEST), False
    if low is not None and low < -LARGEST:
        low, low_open = Fraction(-LARGEST), False
    if high is not None and high > LARGEST:
        high, high_open = Fraction(LARGEST), False
    if low is not None and high is not None and low < high:
        low, low_open, high, high_open = _apart(low, low_open, high, high_open)
    return replace(numbers, low=low, low_open=low_open, high=high, high_open=high_open)


def _apart(low: Fraction, low_open: bool, high: Fraction, high_open: bool) -> tuple[Fraction, bool, Fraction, bool]:
    """Moves an open whole bound inwards where the other one is less than 1 away: the library would admit it."""
    if high - low <= 1:
        inch = Fraction(1, 10 ** (6 + len(str((high - low).denominator))))
        if low_open and low.denominator == 1:
            low, low_open = low + inch, False
        if high_open and high.denominator == 1:
            high, high_open = high - inch, False
    return low, low_open, high, high_open


def _number(value: Fraction) -> int | float:
    return int(value) if value.denominator == 1 else float(value)


def _multiple(step: Fraction) -> int | float | None:
    """The step as the library must read it: it multiplies a double by ten until nothing is behind the point."""
    if step > _MOST_STEP:
        return None
    value = _number(step)
    scaled, digits = float(value), 0
    while scaled % 1 and digits < 12:
        scaled, digits = scaled * 10, digits + 1
    fits = scaled <= _MOST_STEP and Fraction(int(scaled), 10**digits) == step
    return value if fits else None
