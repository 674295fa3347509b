"""Which sequences run in the next step, in which slots, on which tokens. Pure rules: no arrays, no clock, no model.

Rules, in order:
1. Everything that decodes, decodes in every step, so prefill can delay a running stream by one budget at most. What
   is held has nothing to decode, and keeps its slot.
2. Prompts are computed in chunks within a token budget per step, first admitted first, so decoding starves nobody.
   Budgets are the session's, unless the operator's (``EngineConfig``).
3. Waiting sequences are admitted in order of arrival while a slot and some budget are left. An accepted request
   always fits its slot (the edge checked prompt + max_tokens), so nothing is ever preempted.
4. A new sequence starts from the longest prefix that some slot offers; choices of one request share one prefill. It
   goes on in that slot if the slot holds nothing beyond, or so little that to copy what is shared costs more than to
   compute the rest again, should anybody want it; else it starts from a copy.
5. Sequences are kept where a decode call covers few slots beside theirs (``decode_span``). Where it covers those from
   the first one on, slots are given away from the lowest; what a low one retains makes room first, for an empty slot
   or in the place of what was unused for longest, if a step can copy it whole. When a call could be smaller, and could
   have been for a while, sequences move down. Where a call covers what lies between rows, a hole that no admission
   filled is closed at once, by moving one end of the range into it. What a hole retains goes to an empty slot first;
   without one, the slot unused for longest is emptied. A hole that is the last unowned slot keeps its rows and stays
   open.
6. A step copies rows within a budget, a larger one while nothing decodes: a long prefix or a moving sequence's rows
   come in pieces, over several steps, so that neither streams nor who comes or goes wait for all of them. A prompt
   waits for its rows. What moves goes on decoding where it was until its last piece is in place.
7. A copy that fails costs nobody an answer: the rows are computed, or stay where they are (``copy_failed``).

No chunk has exactly one token unless the whole prompt has: a lone token takes the decode path of the attention
kernel, which sums in another order, and a request's result must not depend on how its prompt was cut.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import replace

from runtime.engine.config import EngineConfig
from runtime.engine.decode_span import DecodeSpan
from runtime.engine.sequence import Phase, Sequence
from runtime.engine.slot_moves import CopyBudget, SlotMoves
from runtime.engine.slot_table import SlotMove, SlotTable
from runtime.engine.step_plan import PrefillChunk, SlotCopy, StepPlan
from runtime.engine.token_prefix import NOTHING, TokenPrefix
from runtime.session.session import SessionInfo

MIN_CHUNK_TOKENS = 2
_SHARED_PER_LOST = 32
"""Cached rows for each row beyond them that a sequence may write over in place of copying them. Of a 135M model on two
cores a copied row takes 8 us and 32 more of a slot that was never used, a computed one 600 to 1,000: a copy of 950 rows
took as long as the next turn's first token."""
_MAX_LOST_TOKENS = 32
"""Beyond this much a conversation is taken for one that goes on, beside others with the same beginning."""
# A sequence grows by a row each step, so a move that copied one only would never catch up with it.
MIN_COPY_ROWS = 2
IDLE_COPY_FACTOR = 8
"""Nobody's next token waits then, only other prompts and the taking in of requests."""


class Scheduler:
    """Holds every live sequence. The engine asks for a plan, runs it, and reports back what happened."""

    def __init__(self, info: SessionInfo, config: EngineConfig) -> None:
        span = DecodeSpan.of(info)
        self.slots = SlotTable(info.num_slots, keep_near=span.keeps_near)
        self._moves = SlotMoves(self.slots, span)
        self.running: list[Sequence] = []
        self._config = config
        self._waiting: deque[Sequence] = deque()
        self._prefill_tokens = config.prefill_chunk_tokens or info.prefill_tokens
        self._idle_prefill_tokens = config.idle_prefill_chunk_tokens or info.idle_prefill_tokens
        copy_bytes = info.copy_bytes if config.copy_bytes_per_step is None else config.copy_bytes_per_step
        self._copy_rows_per_step = max(MIN_COPY_ROWS, copy_bytes // info.kv_bytes_per_token)

    @property
    def num_waiting(self) -> int:
        """Sequences without a slot."""
        return len(self._waiting)

    @property
    def has_work(self) -> bool:
        """True while any sequence is alive."""
        return bool(self._waiting or self.running)

    def add(self, sequence: Sequence) -> None:
        """Queue a new sequence."""
        self._waiting.append(sequence)

    def plan(self) -> StepPlan:
        """Decide the next step. Changes slots' ownership; lengths change only through the ``commit`` methods."""
        decodes = any(sequence.phase is Phase.DECODE for sequence in self.running)
        budget = self._prefill_tokens if decodes else self._idle_prefill_tokens
        copies = CopyBudget(self._copy_rows_per_step * (1 if decodes else IDLE_COPY_FACTOR))
        prefills: list[PrefillChunk] = []
        for sequence in self.running:
            if sequence.is_copying:
                self._go_on_copying(sequence, copies)
            if sequence.phase is Phase.PREFILL:
                budget -= self._append_chunk(prefills, sequence, budget)
        while budget >= MIN_CHUNK_TOKENS and (admitted := self._admit(copies)) is not None:
            budget -= self._append_chunk(prefills, admitted, budget)
        self._moves.together(self._decoding_slots, copies)
        return StepPlan(copies=tuple(copies.planned), decode=self._decoding(), prefills=tuple(prefills))

    def only_decodes(self, num_ending: int) -> bool:
        """Whether a step now, without a plan, may decode what runs and leave out nothing that a plan would hold.

        So many of those that run are known to end before it.
        """
        if any(sequence.phase is not Phase.DECODE or sequence.is_held for sequence in self.running):
            return False
        if self._waiting and (num_ending or self.slots.vacant() is not None):
            return False
        return not self._moves.is_due(self._decoding_slots())

    def copy_failed(self, plan: StepPlan, failed: SlotCopy) -> StepPlan:
        """What is left of a plan after one of its copies failed, so that nobody counts on rows that are not there.

        A prompt computes what it could not copy. A sequence that was to move stays where it is, with everything that
        was to move after it; nothing moves again before a sequence has ended, which changes where holes are.
        """
        position = next(index for index, copy in enumerate(plan.copies) if copy is failed)
        if isinstance(failed.cause, Sequence):
            sequence = failed.cause
            sequence.num_computed = sequence.num_prefilled = sequence.num_cached = failed.start
            copies = (*plan.copies[:position], *plan.copies[position + 1 :])
            prefills = tuple(chunk for chunk in plan.prefills if chunk.sequence is not sequence)
            return replace(plan, copies=copies, prefills=prefills)
        later = plan.copies[position:]
        for copy in reversed(later):
            if isinstance(copy.cause, SlotMove):
                self.slots.undo(copy.cause)
        self._moves.stop()
        kept = tuple(copy for copy in later if not isinstance(copy.cause, SlotMove))
        plan = replace(plan, copies=(*plan.copies[:position], *kept), decode=self._decoding())
        for copy in kept:
            if any(isinstance(move.cause, SlotMove) and move.target == copy.source for move in later):
                plan = self.copy_failed(plan, copy)  # it counted on rows that did not come there
        return plan

    def commit_prefill(self, chunk: PrefillChunk) -> None:
        """Record that a chunk's rows are now in the slot; after the last chunk the sequence decodes."""
        sequence = chunk.sequence
        sequence.num_computed = sequence.num_prefilled = chunk.stop
        if chunk.is_last:
            sequence.phase = Phase.DECODE
            if self._config.prefix_cache:
                self.slots.offer(sequence.slot, _prefix(sequence, chunk.stop))

    def commit_decode(self, sequence: Sequence) -> None:
        """Record that the last token's row is now in the slot."""
        sequence.num_computed += 1

    def finish(self, sequence: Sequence, *, rows_valid: bool = True) -> None:
        """Take a sequence out, and close it. Its rows stay on offer unless ``rows_valid`` says they may be damaged."""
        if sequence.phase is Phase.WAITING:
            self._waiting.remove(sequence)
        else:
            self.running.remove(sequence)
            num_rows = sequence.num_prefilled if self._config.deterministic else sequence.num_computed
            keep = rows_valid and self._config.prefix_cache
            self.slots.offer(sequence.slot, _prefix(sequence, num_rows) if keep else NOTHING)
            self.slots.release(sequence.slot)
        self._moves.go_on()
        sequence.phase = Phase.FINISHED
        sequence.close()

    def of_request(self, request_id: str) -> list[Sequence]:
        """The live sequences of a request."""
        return [sequence for sequence in self.alive() if sequence.request.request_id == request_id]

    def alive(self) -> Iterable[Sequence]:
        """Every live sequence, running ones first."""
        yield from self.running
        yield from self._waiting

    def waiting_since_before(self, queued_ns: int) -> list[Sequence]:
        """Sequences that began to wait earlier than ``queued_ns``."""
        return [sequence for sequence in self._waiting if sequence.queued_ns < queued_ns]

    def _append_chunk(self, prefills: list[PrefillChunk], sequence: Sequence, budget: int) -> int:
        if sequence.is_copying:
            return 0
        left = len(sequence.token_ids) - sequence.num_computed
        size = min(left, budget)
        if left - size == 1:
            size -= 1
        if size < min(left, MIN_CHUNK_TOKENS):
            return 0
        prefills.append(PrefillChunk(sequence, sequence.num_computed, sequence.num_computed + size))
        return size

    def _admit(self, copies: CopyBudget) -> Sequence | None:
        if not self._waiting or self._sibling_prefills(self._waiting[0]):
            return None
        vacant = self.slots.vacant()
        if vacant is None:
            return None
        sequence = self._waiting[0]
        source, num_cached = self._reusable_prefix(sequence)
        in_place = self._continues_in_place(source, num_cached, vacant)
        if num_cached and not in_place and not copies.has_room:
            return None
        if not in_place:
            vacant = self._moves.lowered(vacant, source, copies)
        self._waiting.popleft()
        self.slots.take(source if in_place else vacant, sequence)
        sequence.num_cached = num_cached
        sequence.phase = Phase.PREFILL
        self.running.append(sequence)
        if in_place:
            sequence.num_computed = sequence.num_prefilled = num_cached
        elif num_cached:
            self._copy_piece(sequence, source, copies)
        return sequence

    def _go_on_copying(self, sequence: Sequence, copies: CopyBudget) -> None:
        """Copy further rows of a prefix, from whichever slot offers it by now; without one the rest is computed."""
        source, length = self._reusable_prefix(sequence)
        sequence.num_cached = max(length, sequence.num_computed)
        if sequence.is_copying and copies.has_room:
            self._copy_piece(sequence, source, copies)

    def _copy_piece(self, sequence: Sequence, source: int, copies: CopyBudget) -> None:
        start = sequence.num_computed
        stop = start + copies.take(sequence.num_cached - start)
        copies.planned.append(SlotCopy(source, sequence.slot, stop, start, sequence))
        self.slots.touch(source)
        sequence.num_computed = sequence.num_prefilled = stop

    def _sibling_prefills(self, sequence: Sequence) -> bool:
        return any(
            other.request is sequence.request and other.phase is Phase.PREFILL
            for other in self.running
            if sequence.index > 0
        )

    def _reusable_prefix(self, sequence: Sequence) -> tuple[int, int]:
        """Slot and number of rows to start from; (-1, 0) for none. At least two tokens are left to compute.

        What is to be scored starts from nothing: a cached row has no logits any more.
        """
        if sequence.is_scored:
            return -1, 0
        prompt = _prefix(sequence, sequence.num_prompt)
        matches = self.slots.longest_prefix(prompt)
        for other in self.running:
            if other.request is sequence.request and other.phase is Phase.DECODE:
                matches = [(other.slot, len(prompt))]
        if not matches:
            return -1, 0
        # An unowned slot can be continued in place, so it goes before an owned one that offers as much.
        slot, length = min(matches, key=lambda match: self.slots.owners[match[0]] is not None)
        length = min(length, len(prompt) - MIN_CHUNK_TOKENS)
        return (slot, length) if length > 0 else (-1, 0)

    def _continues_in_place(self, source: int, num_cached: int, vacant: int) -> bool:
        """True when the prompt goes on about where the source ends, or when the source is the only slot to give away.

        A branch that leaves more behind leaves the source to others, too, and starts from a copy.
        """
        if source < 0 or self.slots.owners[source] is not None:
            return False
        losable = max(MIN_CHUNK_TOKENS, min(num_cached // _SHARED_PER_LOST, _MAX_LOST_TOKENS))
        return source == vacant or len(self.slots.rows[source]) - num_cached <= losable

    def _decoding_slots(self) -> list[int]:
        return [sequence.slot for sequence in self.running if sequence.phase is Phase.DECODE]

    def _decoding(self) -> tuple[Sequence, ...]:
        decoding = (one for one in self.running if one.phase is Phase.DECODE and not one.is_held)
        return tuple(sorted(decoding, key=_slot))


def _slot(sequence: Sequence) -> int:
    return sequence.slot


def _prefix(sequence: Sequence, num_tokens: int) -> TokenPrefix:
    """The beginning of a sequence, for prompts of its request's salt and adapter."""
    return TokenPrefix(sequence.token_ids, num_tokens, sequence.request.rows_salt)
