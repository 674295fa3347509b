"""The failures that only this room has. What a client is told of each is ``api.error_answer``'s."""

from __future__ import annotations

from runtime.errors import PowertrainError


class SettingsError(PowertrainError):
    """A setting is unknown, unreadable or contradicts another."""


class NotFoundError(PowertrainError):
    """A model or path that does not exist."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class BodyTooLargeError(PowertrainError):
    """The request's body exceeds the configured limit."""


class ForbiddenError(PowertrainError):
    """The request's API key is valid, and not for this."""


class ClientLimitError(PowertrainError):
    """The request's client has used what its API key allows for now. ``retry_after_s`` is when that changes."""

    def __init__(self, message: str, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class GenerationFailedError(PowertrainError):
    """The engine failed while it worked on a request. The text is for the log."""


class NoRoomError(PowertrainError):
    """A model does not fit into the memory beside those that are serving. The text holds the arithmetic."""


class ModelFailedError(PowertrainError):
    """The request's model could not be loaded, or its engine died; others serve."""


class ConflictError(PowertrainError):
    """What an operator asks of a model cannot be done while things stand as they do."""


class ClientGoneError(Exception):
    """The client closed the connection before it was answered: nothing is sent."""
