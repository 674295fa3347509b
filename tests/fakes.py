"""The one fake: a session whose model is arithmetic. Everything above the device seam is the real thing.

``ScriptedSession`` keeps, per slot, the tokens whose rows a real cache would hold, and asks a script for the next
token of that history. It fails loudly on what a real cache would silently get wrong: a chunk that leaves a gap, a
decode position that is not the slot's end, a copy of rows that are not there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from runtime.session.selected import Selected, from_logits
from runtime.session.selection_table import SelectionTable
from runtime.session.session import FloatArray, Int64Array, SessionInfo

Script = Callable[[list[int]], "int | NDArray[np.float32]"]

CHOSEN_LOGIT = 30.0


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a session: ``kind`` is prefill, decode or copy; ``slots`` and ``tokens`` as given.

    ``start`` is where a prefill begins, or how many rows are copied.
    """

    kind: str
    slots: tuple[int, ...]
    tokens: tuple[int, ...]
    start: int = 0


@dataclass
class ScriptedSession:
    """``script`` maps a slot's whole history to the next token id, or to a row of logits [V].

    ``before_call`` runs on the engine thread before each prefill or decode: raise in it, or block on an event.
    ``before_copy`` is the same for copies; one that it refuses leaves rows in the target that are nobody's.
    """

    script: Script
    num_slots: int = 4
    max_model_len: int = 256
    vocab_size: int = 512
    before_call: Callable[[Call], None] = lambda _call: None
    before_copy: Callable[[Call], None] = lambda _call: None
    calls: list[Call] = field(default_factory=list)
    closed: bool = False
    batch_invariant: bool = True
    decode_buckets: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        self.rows: list[list[int]] = [[] for _ in range(self.num_slots)]
        self.run_ns = 0
        self._lent = np.empty(0, np.float32)

    @property
    def info(self) -> SessionInfo:
        sizes = (self.num_slots, self.max_model_len, self.vocab_size, 1)
        return SessionInfo("scripted", *sizes, batch_invariant=self.batch_invariant, decode_buckets=self.decode_buckets)

    def prefill(self, slot: int, token_ids: Int64Array, start: int, num_logits: int) -> FloatArray:
        self._note(Call("prefill", (slot,), tuple(token_ids.tolist()), start))
        rows = self.rows[slot]
        if start > len(rows):
            raise ValueError(f"slot {slot} holds {len(rows)} rows, a chunk starts at {start}")
        rows[start:] = token_ids.tolist()
        self._check_capacity(slot)
        self._lent = np.stack(
            [self._logits(rows[: len(rows) - back]) for back in reversed(range(num_logits))] or [self._void]
        )
        return self._lent

    def decode_tokens(
        self, slots: Int64Array, token_ids: Int64Array, positions: Int64Array, selection: SelectionTable | None = None
    ) -> Selected:
        ascending = tuple(slots.tolist())
        if list(ascending) != sorted(set(ascending)):
            raise ValueError(f"slots {ascending} are not distinct and ascending")
        return from_logits(self._decoded(ascending, token_ids, positions))

    def prefill_token(
        self, slot: int, token_ids: Int64Array, start: int, selection: SelectionTable | None = None
    ) -> Selected:
        return from_logits(self.prefill(slot, token_ids, start, 1))

    def _decoded(self, slots: tuple[int, ...], token_ids: Int64Array, positions: Int64Array) -> FloatArray:
        self._note(Call("decode", slots, tuple(token_ids.tolist())))
        logits = []
        for slot, token_id, position in zip(slots, token_ids.tolist(), positions.tolist(), strict=True):
            if position > len(self.rows[slot]):
                raise ValueError(f"slot {slot} holds {len(self.rows[slot])} rows, a token is decoded at {position}")
            self.rows[slot][position:] = [token_id]
            self._check_capacity(slot)
            logits.append(self._logits(self.rows[slot]))
        self._lent = np.stack(logits)
        return self._lent

    def copy_slot(self, source: int, target: int, num_tokens: int, start: int = 0) -> None:
        call = Call("copy", (source, target), (), num_tokens - start)
        self.calls.append(call)
        if num_tokens > len(self.rows[source]):
            raise ValueError(f"slot {source} holds {len(self.rows[source])} rows, {num_tokens} are to be copied")
        if self.rows[target][:start] != self.rows[source][:start]:
            raise ValueError(f"slots {source} and {target} differ in their first {start} rows")
        try:
            self.before_copy(call)
        except BaseException:
            self.rows[target][start:] = [self.vocab_size - 1] * (num_tokens - start)
            raise
        self.rows[target][start:] = self.rows[source][start:num_tokens]

    def close(self) -> None:
        self.closed = True

    def count(self, kind: str) -> int:
        """How many calls of a kind were made."""
        return sum(call.kind == kind for call in self.calls)

    @property
    def _void(self) -> FloatArray:
        return np.empty(self.vocab_size, np.float32)

    def _note(self, call: Call) -> None:
        self.calls.append(call)
        self._lent.fill(np.nan)  # what was returned is valid until the next call
        self.before_call(call)

    def _check_capacity(self, slot: int) -> None:
        if len(self.rows[slot]) > self.max_model_len:
            raise ValueError(f"slot {slot} overflows its {self.max_model_len} rows")

    def _logits(self, history: list[int]) -> FloatArray:
        answer = self.script(history)
        if isinstance(answer, np.ndarray):
            return answer.astype(np.float32)
        row = np.zeros(self.vocab_size, np.float32)
        row[answer] = CHOSEN_LOGIT
        return row


def counting(history: list[int]) -> int:
    """The next token is the last one plus one: 5, 6, 7 continues with 8."""
    return (history[-1] + 1) % 512


def adding(history: list[int]) -> int:
    """The next token is the sum of the whole history modulo 500: any lost, doubled or foreign row changes it."""
    return sum(history) % 500


def reply(prompts: dict[tuple[int, ...], list[int]], end: int) -> Script:
    """Answer each known prompt with its fixed tokens and then ``end``; an unknown one with ``end`` at once."""

    def script(history: list[int]) -> int:
        for length in range(len(history), 0, -1):
            answer = prompts.get(tuple(history[:length]))
            if answer is not None:
                done = len(history) - length
                return answer[done] if done < len(answer) else end
        return end

    return script
