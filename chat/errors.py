"""The failures that a conversation expects. Every text is one line for a person; the conversation goes on."""

from __future__ import annotations

from runtime.errors import PowertrainError


class ChatError(PowertrainError):
    """What was asked for cannot be done: a bad address, file, schema or value."""


class AnswerError(ChatError):
    """An endpoint refused a request, or its answer broke off. ``status`` is 0 where no status line came."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status
