"""The process that tries constraints: what a sealed process does with each job. Knows no request and no HTTP."""

from __future__ import annotations

import resource
from collections.abc import Callable

import msgspec

from runtime.constraint import limits
from runtime.constraint.spec import (
    Choice,
    Either,
    Json,
    Lark,
    Literal,
    Part,
    Pattern,
    Repeat,
    Sequence,
    Tag,
    Tagged,
    Unless,
    Until,
)
from runtime.constraint.trial import Trials
from runtime.constraint.vocabulary import Vocabulary
from runtime.sealed.job_cost import address_space_bytes
from runtime.sealed.serving import serve

_ASSUMED_BYTES = 512 * 1024 * 1024
# One of each kind: what they import or build with their first use, they do before no file can be opened.
_EVERY_KIND = Sequence((
    Until("b"), Either((Json('{"type":"object","properties":{"a":{"type":"string","pattern":"^b"}}}'), Literal("a"))),
    Repeat(Pattern("(?i)a+"), 1), Choice(("a", "b")), Lark('start: "a"'), Tagged((Tag("<", Literal("b"), ">", "<"),)),
    Unless(Choice(("a", "b")), ("b",)),
))  # fmt: skip


class Setup(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """A vocabulary without its tokenizer: how forced text is written makes no difference to what it costs."""

    token_bytes: list[bytes]
    control_ids: dict[str, int]
    end_ids: list[int]


def main(parent_pid: int) -> None:
    """Serve jobs until the server closes the channel."""
    serve(parent_pid, _prepare)


def _prepare(setup: bytes) -> tuple[Callable[[bytes], bytes], int]:
    given = msgspec.msgpack.decode(setup, type=Setup)
    vocabulary = Vocabulary(
        token_bytes=tuple(given.token_bytes),
        control_ids=given.control_ids,
        end_ids=tuple(given.end_ids),
        encode=None,
    )
    trials = Trials(vocabulary)
    trials.run(_EVERY_KIND)
    # The server's threads have as much stack as this or more: what fits here fits there.
    resource.setrlimit(resource.RLIMIT_STACK, (limits.TRIAL_STACK_BYTES, limits.TRIAL_STACK_BYTES))

    parts: msgspec.msgpack.Decoder[Part] = msgspec.msgpack.Decoder(Part)

    def answer(body: bytes) -> bytes:
        return msgspec.msgpack.encode(trials.run(parts.decode(body)))

    return answer, (address_space_bytes() or _ASSUMED_BYTES) + limits.TRIAL_MEMORY_BYTES
