"""Log lines as text or JSON, one line each whatever they hold. Knows no request.

What a client sends reaches the log as data only: characters that control a terminal, end a line or turn the writing
direction are escaped in both forms, and in text a value that could be read as another field stands in quotes.
"""

from __future__ import annotations

import logging
import re
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime

import msgspec

from api.server_settings import Settings

# C0, DEL and C1; the Arabic letter mark; zero-width characters, marks and line separators; embeddings and overrides;
# invisible operators and isolates; the byte-order mark.
_UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]")
_BARE_VALUE = re.compile(r"[A-Za-z0-9_./:,+@%~-]+")
_ROOT = "powertrain"


class TextFormatter(logging.Formatter):
    """``time level logger message key=value ...``; a value of other than plain characters is a JSON string."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line of text."""
        fields = getattr(record, "fields", None) or {}
        parts = [_time(record), record.levelname.lower(), record.name, _well_formed(record.getMessage())]
        parts += [f"{key}={_text_value(value)}" for key, value in fields.items()]
        if record.exc_info:
            parts.append(_well_formed(self.formatException(record.exc_info)))
        return escape(" ".join(parts))


class JsonFormatter(logging.Formatter):
    """One JSON object per line."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as one JSON object."""
        entry: dict[str, object] = {"time": _time(record), "level": record.levelname.lower(), "logger": record.name}
        entry |= {"message": record.getMessage(), **(getattr(record, "fields", None) or {})}
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        safe = {key: _well_formed(value) if isinstance(value, str) else value for key, value in entry.items()}
        return _json_escape(msgspec.json.encode(safe, enc_hook=str).decode())


class RareLog:
    """Warnings that may come thousands of times a second: each text once in ``every_s``, with the number left out."""

    def __init__(
        self, logger: logging.Logger, *, every_s: float = 10.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._logger = logger
        self._every_s = every_s
        self._clock = clock
        self._seen: dict[str, tuple[float, int]] = {}  # text -> when it was last written, how often it was not since

    def warning(self, text: str, *values: object) -> None:
        """Log ``text % values`` unless the same text was logged a moment ago."""
        now = self._clock()
        last, skipped = self._seen.get(text, (None, 0))
        if last is not None and now - last < self._every_s:
            self._seen[text] = (last, skipped + 1)
            return
        self._seen[text] = (now, 0)
        self._logger.warning(text, *values, extra={"fields": {"skipped": skipped}} if skipped else None)


def escape(text: str) -> str:
    """Text on one line: unsafe characters as ``\\xNN`` or ``\\uNNNN``."""
    return _UNSAFE.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def configure_logging(settings: Settings) -> None:
    """Send every log to standard error in the chosen form."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if settings.log_format == "json" else TextFormatter())
    # The HTTP server's own log is of interest only when something is wrong.
    for name, level in ((_ROOT, settings.log_level.upper()), ("uvicorn", "WARNING")):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.setLevel(level)
        logger.propagate = False


def _text_value(value: object) -> str:
    if value is None:
        return "-"
    text = _well_formed(str(value))
    return text if _BARE_VALUE.fullmatch(text) and text != "-" else _json_escape(msgspec.json.encode(text).decode())


def _json_escape(text: str) -> str:
    """JSON text, still JSON: inside its strings unsafe characters become ``\\uNNNN``."""
    return _UNSAFE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def _well_formed(text: str) -> str:
    """Text that UTF-8 can hold: half a surrogate pair, which names of files may have, becomes ``\\uNNNN``."""
    return text.encode("utf-8", "backslashreplace").decode()


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
