"""The input items of a response as the messages of a chat, and where in the request each message came from.

What one turn of the assistant brought (reasoning, text, calls) is several items there and one message here, because
templates write it as one. Knows no field beside instructions and input.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from runtime.errors import RequestError

from api.request.field_names import Origin
from api.request.messages import (
    AssistantMessage,
    DeveloperMessage,
    FunctionCall,
    Message,
    RefusalPart,
    SystemMessage,
    TextPart,
    ToolCall,
    ToolMessage,
    UserMessage,
)
from api.request.response_items import (
    FunctionCallItem,
    FunctionCallOutputItem,
    InputItem,
    InputMessage,
    InputRefusalPart,
    ReasoningInputItem,
)

_ROLES: dict[str, type[UserMessage | SystemMessage | DeveloperMessage]] = {
    "user": UserMessage,
    "system": SystemMessage,
    "developer": DeveloperMessage,
}


@dataclass(frozen=True, slots=True)
class Conversation:
    """Messages in order, and the origin of each."""

    messages: tuple[Message, ...]
    origins: tuple[Origin, ...]


def conversation_of(instructions: str | None, given: str | Sequence[InputItem]) -> Conversation:
    """The messages of a request. Raises RequestError for the output of a call that is not in the input."""
    found = _Found()
    if instructions is not None:
        found.add(SystemMessage(instructions), "instructions")
    if isinstance(given, str):
        found.add(UserMessage(given), "input")
        return found.conversation()
    names: dict[str, str] = {}  # call id -> function
    for index, item in enumerate(given):
        place = f"input.{index}"
        match item:
            case InputMessage(role="assistant"):
                found.turn(place, starts=found.has_text_only).parts += _parts(item)
            case InputMessage(role=role):
                found.add(_ROLES[role](_text(item)), place)
            case ReasoningInputItem():
                found.turn(place, starts=True).reasoning = _reasoning(item)
            case FunctionCallItem():
                names[item.call_id] = item.name
                found.turn(place).add_call(item, place)
            case FunctionCallOutputItem(call_id=call_id):
                if call_id not in names:
                    message = f"{place}.call_id: no function_call before it has this id; send the call as well"
                    raise RequestError(message, f"{place}.call_id")
                found.add(ToolMessage(_output(item), call_id, names[call_id]), place)
    return found.conversation()


@dataclass(slots=True)
class _Turn:
    """One turn of the assistant in the making."""

    place: str
    reasoning: str | None = None
    parts: list[TextPart | RefusalPart] = field(default_factory=list)
    calls: list[ToolCall] = field(default_factory=list)
    call_places: list[str] = field(default_factory=list)

    def add_call(self, item: FunctionCallItem, place: str) -> None:
        self.calls.append(ToolCall(FunctionCall(item.name, item.arguments), item.call_id))
        self.call_places.append(place)

    def message(self) -> AssistantMessage:
        content: str | list[TextPart | RefusalPart] | None = self.parts or (None if self.calls else "")
        return AssistantMessage(content, tool_calls=self.calls or None, reasoning_content=self.reasoning)


class _Found:
    """The messages so far and the turn that may still grow."""

    def __init__(self) -> None:
        self._messages: list[Message] = []
        self._origins: list[Origin] = []
        self._turn: _Turn | None = None

    @property
    def has_text_only(self) -> bool:
        """True when the open turn holds text and no call: further text is a message of its own."""
        return self._turn is not None and bool(self._turn.parts) and not self._turn.calls

    def turn(self, place: str, *, starts: bool = False) -> _Turn:
        """The open turn, or a new one where none is open or ``starts``."""
        if self._turn is None or starts:
            self._close_turn()
            self._turn = _Turn(place)
        return self._turn

    def add(self, message: Message, place: str) -> None:
        """Add a message that is nobody's turn."""
        self._close_turn()
        self._messages.append(message)
        self._origins.append(Origin(place))

    def conversation(self) -> Conversation:
        """Everything, once nothing more comes."""
        self._close_turn()
        return Conversation(tuple(self._messages), tuple(self._origins))

    def _close_turn(self) -> None:
        turn, self._turn = self._turn, None
        if turn is not None:
            self._messages.append(turn.message())
            self._origins.append(Origin(turn.place, tuple(turn.call_places)))


def _parts(item: InputMessage) -> list[TextPart | RefusalPart]:
    if isinstance(item.content, str):
        return [TextPart(item.content)]
    return [
        RefusalPart(part.refusal) if isinstance(part, InputRefusalPart) else TextPart(part.text)
        for part in item.content
    ]


def _text(item: InputMessage) -> str | list[TextPart]:
    if isinstance(item.content, str):
        return item.content
    return [TextPart(part.refusal if isinstance(part, InputRefusalPart) else part.text) for part in item.content]


def _output(item: FunctionCallOutputItem) -> str | list[TextPart]:
    return item.output if isinstance(item.output, str) else [TextPart(part.text) for part in item.output]


def _reasoning(item: ReasoningInputItem) -> str | None:
    parts = item.content or item.summary or []
    return "\n".join(part.text for part in parts) or None
