"""Reads questions from a terminal: editing, history of this session, several lines. Knows no conversation.

prompt_toolkit is imported when the editor is made, which a pipe and a help page never do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.completion import Completer
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

BLOCK = '"""'


def is_open_block(text: str) -> bool:
    """True for a text that began with three quotes and has not ended with them."""
    stripped = text.strip()
    return stripped.startswith(BLOCK) and not (len(stripped) >= 2 * len(BLOCK) and stripped.endswith(BLOCK))


def without_block(text: str) -> str:
    """The text between three quotes; any other text as it is."""
    stripped = text.strip()
    if stripped.startswith(BLOCK) and not is_open_block(text):
        return stripped[len(BLOCK) : -len(BLOCK)].strip("\n")
    return text


def terminal_reader(words: list[str]) -> Callable[[], str | None]:
    """A function that reads one question; None at Ctrl-D. Raises KeyboardInterrupt at Ctrl-C on an empty line.

    ``words`` are the commands to complete. Needs a terminal on standard input and output.
    """
    from prompt_toolkit import PromptSession
    from prompt_toolkit.history import InMemoryHistory

    session: PromptSession[str] = PromptSession(
        ">>> ",
        multiline=True,
        prompt_continuation=lambda _width, _line, is_wrapped: "" if is_wrapped else "... ",
        key_bindings=_keys(),
        completer=_completer(words),
        history=InMemoryHistory(),
        enable_history_search=True,
    )

    def read() -> str | None:
        try:
            return without_block(session.prompt())
        except EOFError:
            return None

    return read


def ask_secret(question: str) -> str:
    """A line that is not shown while it is typed; empty when the person gives none."""
    from prompt_toolkit import prompt

    try:
        return prompt(question, is_password=True).strip()
    except (EOFError, KeyboardInterrupt):
        return ""


def _keys() -> KeyBindings:
    from prompt_toolkit.key_binding import KeyBindings

    keys = KeyBindings()

    @keys.add("enter")
    def _(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if is_open_block(buffer.text):
            buffer.insert_text("\n")
        else:
            buffer.validate_and_handle()

    @keys.add("escape", "enter")
    @keys.add("c-j")
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    @keys.add("c-c")
    def _(event: KeyPressEvent) -> None:
        if event.current_buffer.text:
            event.current_buffer.reset()
        else:
            event.app.exit(exception=KeyboardInterrupt)

    return keys


def _completer(words: list[str]) -> Completer:
    from prompt_toolkit.completion import CompleteEvent, Completer, Completion
    from prompt_toolkit.document import Document

    class SlashCompleter(Completer):
        """Completes a command at the start of the text."""

        def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterator[Completion]:
            """The commands that begin as the text does."""
            del complete_event
            typed = document.text_before_cursor
            if typed.startswith("/"):
                yield from (Completion(word, -len(typed)) for word in words if word.startswith(typed))

    return SlashCompleter()
