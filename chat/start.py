"""What a conversation begins with: the model that is asked, and the flags' values. Shows nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from chat.client import ChatClient, ModelEntry
from chat.conversation import Conversation, schema_from
from chat.errors import AnswerError

_UNAUTHORIZED = 401


def ask_models(client: ChatClient, name: str | None, ask_key: Callable[[], str] | None) -> ModelEntry:
    """The model to ask: the named one, else the first that the endpoint serves.

    A named one is believed where the endpoint lists nothing. A missing key is asked for once. Raises AnswerError.
    """
    try:
        entries = client.models()
    except AnswerError as error:
        if error.status == _UNAUTHORIZED and ask_key is not None and (key := ask_key()):
            client.use_key(key)
            entries = client.models()
        elif name is None or error.status == _UNAUTHORIZED:
            raise
        else:
            entries = []
    if name is not None:
        return next((entry for entry in entries if entry.name == name), ModelEntry(name, None))
    if not entries:
        raise AnswerError("the endpoint serves no model; name one with --model")
    return entries[0]


def conversation_for(model: str, system: str | None, schema: str | None, params: dict[str, Any]) -> Conversation:
    """An empty conversation. ``schema`` is a file's name or a JSON schema. Raises ChatError."""
    return Conversation(model, system, params, None if schema is None else schema_from(schema))
