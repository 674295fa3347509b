"""Typed look-ups in a JSON object that somebody else wrote: every wrong type is a SourceError that names the key."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeGuard

from export.errors import SourceError

_MAX_BYTES = 256 * 2**20
_MAX_SIZE = 1 << 24
_MAX_NUMBER = 1e300


class JsonObject:
    """An object of a file called ``name``."""

    def __init__(self, name: str, values: dict[str, Any]) -> None:
        self.name, self.values = name, values

    def __contains__(self, key: str) -> bool:
        return self.values.get(key) is not None

    def error(self, key: str, wanted: str) -> SourceError:
        """What to raise when ``key`` is not ``wanted``."""
        return SourceError(f"{self.name}: {key!r} is {self.values.get(key)!r:.200}, {wanted} is needed")

    def size(self, key: str, default: int | None = None) -> int:
        """A whole number from 1 to 2^24."""
        value = self.values.get(key)
        if value is None and default is not None:
            return default
        if type(value) is not int or not 0 < value <= _MAX_SIZE:
            raise self.error(key, f"a whole number from 1 to {_MAX_SIZE}")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """A finite number."""
        value = self.values.get(key)
        if value is None and default is not None:
            return default
        if not _is_finite_number(value):
            raise self.error(key, "a finite number")
        return float(value)

    def positive(self, key: str, default: float | None = None) -> float:
        """A finite number above 0."""
        value = self.number(key, default)
        if not value > 0:
            raise self.error(key, "a number above 0")
        return value

    def flag(self, key: str, *, default: bool) -> bool:
        """True or false."""
        value = self.values.get(key)
        if value is None:
            return default
        if type(value) is not bool:
            raise self.error(key, "true or false")
        return value

    def text(self, key: str) -> str | None:
        """Text, or None."""
        value = self.values.get(key)
        if value is not None and not isinstance(value, str):
            raise self.error(key, "text")
        return value

    def numbers(self, key: str, length: int) -> tuple[float, ...]:
        """A list of ``length`` finite numbers."""
        value = self.values.get(key)
        if not isinstance(value, list) or len(value) != length:
            raise self.error(key, f"a list of {length} numbers")
        if not all(_is_finite_number(item) for item in value):
            raise self.error(key, f"a list of {length} finite numbers")
        return tuple(float(item) for item in value)

    def object(self, key: str) -> JsonObject | None:
        """A nested object, or None."""
        value = self.values.get(key)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise self.error(key, "an object")
        return JsonObject(f"{self.name}: {key}", value)


def _is_finite_number(value: object) -> TypeGuard[int | float]:
    """False for bool, NaN, infinity and integers that no float can hold."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return -_MAX_NUMBER < value < _MAX_NUMBER


def read_json_object(path: Path) -> JsonObject:
    """Parse a file. Raises SourceError unless it is a JSON object of at most 256 MiB."""
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise SourceError(f"{path.name}: larger than {_MAX_BYTES} bytes; this is not a configuration")
        values = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise SourceError(f"{path.name} is missing in {path.parent}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise SourceError(f"{path.name} cannot be read as JSON ({error})") from error
    if not isinstance(values, dict):
        raise SourceError(f"{path.name}: a JSON object is needed")
    return JsonObject(path.name, values)
