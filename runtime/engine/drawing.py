"""A call's answer -> tokens: taken or drawn, committed, and told of with the ends that they bring.

What the session chose is taken; the other rows are drawn here, from their logits. A row whose constraint's mask is not
there yet is held: it keeps its logits, and is drawn at the beginning of the first step that finds the mask, so that no
neighbour waits. Owns the time that drawing took; knows no session, no plan and no text.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Rows
from dataclasses import dataclass

import numpy as np

from runtime.engine.constrained import ALONE_WAIT_S, Constrained
from runtime.engine.scheduler import Scheduler
from runtime.engine.sequence import Phase, Sequence
from runtime.engine.step_events import StepEvents
from runtime.errors import ConstraintFailed
from runtime.events import FinishReason, PromptEvent, TokenEvent
from runtime.sampling.allowed_tokens import Allowed
from runtime.sampling.prompt_scores import prompt_scores
from runtime.sampling.row_rules import RowRules, taken
from runtime.sampling.sampler import UNUSABLE, NoToken, Sampled, SamplerState, sample
from runtime.session.selected import Selected
from runtime.session.selection_table import SelectionTable
from runtime.session.session import FloatArray


@dataclass(frozen=True, slots=True)
class Asked:
    """Rules for a call, None if the session is to choose no token of it; ``states`` of the rows that it chooses."""

    table: SelectionTable | None
    states: list[SamplerState | None]


class Drawing:
    """One step's drawing of tokens. ``clock`` returns nanoseconds. ``rules`` is None where the session chooses none."""

    def __init__(
        self,
        scheduler: Scheduler,
        rules: RowRules | None,
        told: StepEvents,
        constrained: Constrained,
        clock: Callable[[], int],
    ) -> None:
        self._scheduler = scheduler
        self._told = told
        self._constrained = constrained
        self._rules = rules
        self._clock = clock
        self.sample_ns = 0
        self.commit_ns = 0

    @property
    def spent_ns(self) -> int:
        """Time of all that was drawn and committed so far."""
        return self.sample_ns + self.commit_ns

    def score(self, logits: FloatArray, sequence: Sequence, start: int) -> bool:
        """Note what the model thought of the prompt's tokens ``start + 1`` on, given ``logits`` [T, V] of ``start`` on.

        The logits stay as they are. False if they hold no usable number, which ends the sequence.
        """
        begin = self._clock()
        following = sequence.token_ids[start + 1 : start + 1 + len(logits)]
        scores = prompt_scores(logits[: len(following)], following, sequence.request.prompt_logprobs or 0)
        sequence.scores += scores or ()
        self.sample_ns += self._clock() - begin
        if scores is None:
            self._take(sequence, UNUSABLE, begin)
        return scores is not None

    def ask(self, sequences: Rows[Sequence], unknown: Rows[int] | None = None) -> Asked:
        """What to hand to the call that computes the next tokens of ``sequences``, whose answer ``draw_answer`` takes.

        Rules are written for those whose next token the session can choose; where it chooses none, the states are of
        the rows whose tokens can be drawn as soon as there are logits. A sequence whose constraint failed is
        finished afterwards, and has no row in the call. ``unknown`` tells how many tokens of each are not known yet.
        """
        if self._rules is None:
            return Asked(None, [one.sampler if one.request.constraint is None else None for one in sequences])
        begin = self._clock()
        states = []
        for sequence, ahead in zip(sequences, unknown or [0] * len(sequences), strict=True):
            state = self._asked_for(sequence, self._rules, ahead)
            if sequence.phase is not Phase.FINISHED:
                states.append(state)
        self.sample_ns += self._clock() - begin
        return Asked(self._rules.table if any(states) else None, states)

    def _asked_for(self, sequence: Sequence, rules: RowRules, ahead: int) -> SamplerState | None:
        """The sampler of a sequence whose rules are written; None where its token is the host's to draw."""
        allowed: Allowed | None = None
        if sequence.request.constraint is not None:
            allowed = self._constrained.allowed(sequence, 0.0) if sequence.num_left else None
            if allowed is None:
                return None
        return sequence.sampler if rules.write(sequence.slot, sequence.sampler, allowed, ahead) else None

    def draw_answer(self, answer: Selected, sequences: Rows[Sequence], asked: Rows[SamplerState | None]) -> int:
        """Take or draw one token per row and commit it; returns how many there were. See ``draw``.

        ``asked`` are the states that ``ask`` gave for the rows.
        """
        if answer.chosen is None or not any(asked):
            return self.draw(answer.logits(range(len(sequences))), sequences)
        begin = self._clock()
        tokens = taken(answer.chosen, asked)
        places = [place for place, token in enumerate(tokens) if token is None]
        fetched = self._clock()
        logits = answer.logits(places) if places else None
        self.sample_ns += fetched - begin  # fetching logits is the session's time
        committed = self.take(tokens, sequences)
        drawn = 0 if logits is None else self.draw(logits, [sequences[place] for place in places])
        return committed + drawn

    def take(self, tokens: Rows[Sampled | NoToken | None], sequences: Rows[Sequence]) -> int:
        """Commit the tokens of rows that have one; returns how many there were."""
        begin = self._clock()
        committed = [
            sequence
            for sequence, token in zip(sequences, tokens, strict=True)
            if token is not None and self._take(sequence, token, begin)
        ]
        self._constrained.start(committed)
        self.commit_ns += self._clock() - begin
        return len(committed)

    def first(self, answer: Selected, sequence: Sequence, asked: SamplerState | None) -> None:
        """Go on from a prompt that was read, given the ``answer`` of its last token: tell its scores, and draw.

        ``asked`` is what ``ask`` gave for it, if it was asked. Where nothing is to be drawn the sequence ends.
        """
        if sequence.is_scored:
            scores = tuple(sequence.scores)
            self._told.events.append(PromptEvent(sequence.request.request_id, sequence.index, scores))
        if sequence.num_left:
            self.draw_answer(answer, [sequence], [asked])
        else:
            self._told.end(sequence, FinishReason.LENGTH)

    def draw(self, logits: FloatArray, sequences: Rows[Sequence], wait_s: float = 0.0) -> int:
        """Draw one token per row, and commit it; returns how many were drawn.

        A row of ``logits`` [B, V] whose mask does not come within ``wait_s`` is held instead.
        """
        begin = self._clock()
        states: list[SamplerState | None] = [None] * len(sequences)
        allowed: list[Allowed | None] = [None] * len(sequences)
        admitted = [self._constrained.admitted(logits[row], sequence) for row, sequence in enumerate(sequences)]
        for row, sequence in enumerate(sequences):
            if admitted[row] is not None:
                continue
            if sequence.request.constraint is None:
                states[row] = sequence.sampler
            elif (may_come := self._constrained.allowed(sequence, wait_s)) is not None:
                states[row], allowed[row] = sequence.sampler, may_come
            elif sequence.phase is not Phase.FINISHED and not sequence.is_held:
                sequence.held_logits = logits[row].copy()
        drawn = [alone or other for alone, other in zip(admitted, sample(logits, states, allowed), strict=True)]
        self.sample_ns += self._clock() - begin
        return self.take(drawn, sequences)

    def draw_held(self) -> None:
        """Draw the tokens whose masks have come since their logits were computed."""
        for sequence in [held for held in self._scheduler.running if held.is_held]:
            if sequence.held_logits is not None:
                self.draw(sequence.held_logits[np.newaxis], [sequence])

    def wait_for_mask(self) -> None:
        """Sleep a little if some sequence is held."""
        held = next((sequence for sequence in self._scheduler.running if sequence.is_held), None)
        if held is not None:
            self._constrained.allowed(held, ALONE_WAIT_S)

    def _take(self, sequence: Sequence, token: Sampled | NoToken, now_ns: int) -> bool:
        """Commit a drawn token, or end its sequence; True if there is one."""
        if isinstance(token, NoToken):
            self._told.fail(sequence, token.error, for_client=token.for_client)
            return False
        try:
            self._commit(sequence, token, now_ns)
        except ConstraintFailed as error:
            self._told.refuse(sequence, error)
        return True

    def _commit(self, sequence: Sequence, token: Sampled, now_ns: int) -> None:
        request, params, matcher = sequence.request, sequence.request.sampling, sequence.matcher
        token_id = token.token_id
        is_stop = token_id in params.stop_token_ids
        # Under a constraint an ignored end token comes only where nothing else may.
        is_end = is_stop or (token_id in request.eos_token_ids and (matcher is not None or not params.ignore_eos))
        ends: tuple[int, ...] = ()
        if matcher is not None and request.watch_ends:
            ends = (0,) if is_end else matcher.ends_within(token_id)
        sequence.held_logits = None
        sequence.token_ids.append(token_id)
        sequence.first_token_ns = sequence.first_token_ns or now_ns
        what = (request.request_id, sequence.index, token_id, token.logprobs, sequence.admitted_ns, ends)
        self._told.events.append(TokenEvent(*what, num_cached_tokens=sequence.num_cached))
        if is_end:
            self._told.end(sequence, FinishReason.STOP, stop_token_id=token_id if is_stop else None)
        elif sequence.num_generated >= params.max_tokens:
            self._told.end(sequence, FinishReason.LENGTH)
        elif matcher is not None:
            matcher.commit(token_id)
