"""A session over scripted lines: what a person would have seen, as text."""

from __future__ import annotations

import io
from collections.abc import Callable

from chat.client import ChatClient
from chat.conversation import Conversation
from chat.endpoint import endpoint_from_url
from chat.screen import Screen
from chat.session import Session
from chat.start import ask_models


def talk(
    url: str,
    *lines: str,
    key: str | None = None,
    ask_key: Callable[[], str] | None = None,
    conversation: Conversation | None = None,
    stream: bool = True,
    style: bool = False,
) -> str:
    """Everything that was shown. The lines end as Ctrl-D does; all of them must be read unless one leaves."""
    out = io.StringIO()
    rest = iter(lines)
    with ChatClient(endpoint_from_url(url, key)) as client:
        entry = ask_models(client, None, ask_key)
        told = conversation or Conversation(entry.name)
        told.model = entry.name
        session = Session(client, told, Screen(out, style=style), stream=stream, ask_key=ask_key, context=entry.context)
        session.run(lambda: next(rest, None))
    return out.getvalue()
