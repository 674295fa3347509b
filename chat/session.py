"""A conversation's loop: read, obey or ask, show; and the single question of a pipe.

Whatever goes wrong with one answer is one line, and the conversation goes on. Reads and writes through what it is
given, so it knows no terminal.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field

from chat.client import ChatClient
from chat.conversation import Conversation
from chat.errors import AnswerError, ChatError
from chat.screen import Screen
from chat.slash import Next, run_slash
from chat.timing import Timing
from chat.wire import Finish, Piece, Usage

_UNAUTHORIZED = 401


@dataclass(slots=True)
class _Answer:
    """What came of one answer so far."""

    timing: Timing
    text: list[str] = field(default_factory=list)
    has_calls: bool = False
    finish: str | None = None
    usage: Usage | None = None

    def take(self, event: Piece | Finish | Usage, screen: Screen) -> None:
        """Keep an event, and show it if it is text."""
        if isinstance(event, Finish):
            self.finish = event.reason
        elif isinstance(event, Usage):
            self.usage = event
        else:
            self.timing.mark(time.perf_counter())
            if event.kind == "content":
                self.text.append(event.text)  # before it is shown: a Ctrl-C may come as soon as it is seen
            self.has_calls = self.has_calls or event.kind == "tool_name"
            screen.piece(event)


class Session:
    """``ask_key`` asks the person for a key when the endpoint wants one; None where nobody can be asked.

    ``context`` is the model's longest conversation in tokens, for the line under each answer; None when not known.
    """

    def __init__(
        self,
        client: ChatClient,
        conversation: Conversation,
        screen: Screen,
        *,
        stream: bool = True,
        ask_key: Callable[[], str] | None = None,
        context: int | None = None,
    ) -> None:
        self._client = client
        self._conversation = conversation
        self._screen = screen
        self._stream = stream
        self._ask_key = ask_key
        self._context = context

    def run(self, read: Callable[[], str | None]) -> None:
        """Read lines until None, ``/exit``, or a Ctrl-C that stops no answer."""
        while True:
            try:
                line = read()
                if line is None or not self._obey(line):
                    return
            except ChatError as error:
                self._screen.note(str(error))
            except KeyboardInterrupt:
                return

    def answer_once(self, question: str) -> None:
        """One answer and nothing around it. Raises AnswerError; an answer cut at its limit is told in the notes."""
        self._conversation.ask(question)
        answer = _Answer(Timing(time.perf_counter()))
        try:
            self._receive(answer)
        finally:
            self._screen.end()
        self._tell_finish(answer)

    def _obey(self, line: str) -> bool:
        """Do what a line says. False: leave."""
        if not line.strip():
            return True
        if line.startswith("/") and not line.startswith("//"):
            todo, told = run_slash(line, self._conversation)
            if told:
                self._screen.note(told)
            if todo is Next.RETRY and self._conversation.pending is not None:
                self._ask(self._conversation.pending)
            return todo is not Next.LEAVE
        self._ask(line[1:] if line.startswith("//") else line)
        return True

    def _ask(self, question: str) -> None:
        self._conversation.ask(question)
        answer = _Answer(Timing(time.perf_counter()))
        problem = ""
        try:
            self._receive(answer)
        except KeyboardInterrupt:
            problem = "stopped"
        except AnswerError as error:
            problem = str(error)
        finally:
            # What was seen is part of the conversation, also where it ends too early; what has no text is taken back.
            text = "".join(answer.text)
            self._conversation.answer({"role": "assistant", "content": text} if text else None)
            self._screen.end()
        if problem:
            self._screen.note(problem)
            return
        self._tell_finish(answer)
        if line := answer.timing.line(answer.usage, self._context):
            self._screen.note(line)

    def _receive(self, answer: _Answer) -> None:
        """Show the answer to the last message as it comes. A key that is missing is asked for, once."""
        try:
            self._take_all(answer)
        except AnswerError as error:
            if error.status != _UNAUTHORIZED or self._ask_key is None:
                raise
            key = self._ask_key()
            if not key:
                raise
            self._client.use_key(key)
            answer.timing.sent_s = time.perf_counter()
            self._take_all(answer)

    def _take_all(self, answer: _Answer) -> None:
        # Closed also where a Ctrl-C lands between two pieces: that is what ends the answer at the endpoint.
        with closing(self._client.ask(self._conversation.body(stream=self._stream))) as events:
            for event in events:
                answer.take(event, self._screen)

    def _tell_finish(self, answer: _Answer) -> None:
        if answer.finish == "length":
            self._screen.note("the answer was cut at its length limit (max_tokens, or the context is full)")
        elif answer.has_calls:
            self._screen.note("the model wants a tool to be called; calls are shown and not answered")
        elif answer.finish not in {None, "stop"}:
            self._screen.note(f"the answer ended with {answer.finish}")
        elif not answer.text:
            self._screen.note("the answer is empty")
