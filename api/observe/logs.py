"""Log lines as text or JSON, one line each whatever they hold. Knows no request.

Control characters are escaped in both forms, so that nothing a client sends can start a line of its own.
"""

from __future__ import annotations

import logging
import re
import sys
from datetime import UTC, datetime

import msgspec

from api.server_settings import Settings

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_ROOT = "powertrain"


class TextFormatter(logging.Formatter):
    """``time level logger message key=value ...``."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line of text."""
        fields = getattr(record, "fields", None) or {}
        parts = [_time(record), record.levelname.lower(), record.name, record.getMessage()]
        parts += [f"{key}={'-' if value is None else value}" for key, value in fields.items()]
        if record.exc_info:
            parts.append(self.formatException(record.exc_info))
        return escape(" ".join(parts))


class JsonFormatter(logging.Formatter):
    """One JSON object per line."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as one JSON object."""
        entry = {"time": _time(record), "level": record.levelname.lower(), "logger": record.name}
        entry |= {"message": record.getMessage(), **(getattr(record, "fields", None) or {})}
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return escape(msgspec.json.encode(entry).decode())


def escape(text: str) -> str:
    """Text on one line: control characters and line separators as ``\\xNN`` or ``\\uNNNN``."""
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


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


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
