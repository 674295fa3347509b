"""Prompts: calls of the graph over one slot, in pieces of sizes that it takes, and the token that comes next.

Owns the memory that such calls are written to and read from. Knows no decode step, and not what other slots hold.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from runtime.package import graph_io
from runtime.session.device import Device
from runtime.session.gpu.device_arena import DeviceArena
from runtime.session.gpu.prefill_pieces import Piece, prefill_pieces
from runtime.session.gpu.runner import Call, Run, Runner, Selector
from runtime.session.gpu.selection_staging import SelectionStaging
from runtime.session.gpu.staging import Staging
from runtime.session.gpu.stream_work import StreamWork, queue_graph, queue_selection
from runtime.session.selected import Selected
from runtime.session.selection_table import SelectionTable
from runtime.session.session import FloatArray, Int64Array


class PromptCalls:
    """The prompts of one session. Without a ``selector``, ``token`` is not to be called."""

    def __init__(
        self,
        runner: Runner,
        device: Device,
        arena: DeviceArena,
        work: StreamWork,
        vocab_size: int,
        *,
        selector: Selector | None,
    ) -> None:
        limits = runner.limits
        self._runner, self._arena, self._work, self._limits = runner, arena, work, limits
        self._vocab_size = vocab_size
        self._staging = Staging(
            device,
            limits.position_input,
            num_tokens=limits.prefill_tokens,
            num_rows=1,
            num_logits=limits.max_logits,
            vocab_size=vocab_size,
        )
        self._head = None if selector is None else _Head(selector, device, self._staging, vocab_size)

    def logits(self, slot: int, token_ids: Int64Array, start: int, num_logits: int) -> FloatArray:
        """Logits [num_logits, V] of the last tokens of ``token_ids`` [T], which lie in ``slot`` from ``start`` on.

        They are a view of memory that the next call writes, where one piece had them all.
        """
        answer, filled = np.empty((num_logits, self._vocab_size), np.float32), 0
        rows = answer
        for piece in prefill_pieces(self._limits, len(token_ids), start, num_logits):
            rows = self._piece(slot, token_ids[piece.begin : piece.end], start + piece.begin, piece)
            if len(rows) < num_logits:
                answer[filled : filled + len(rows)] = rows
                filled += len(rows)
        return answer if filled else rows  # nearly always the last piece has them all

    def token(self, slot: int, token_ids: Int64Array, start: int, selection: SelectionTable) -> Selected | None:
        """What the head chooses after ``token_ids`` by the rules of the slot's row; None where there is no head.

        Only the last piece wants logits, and they stay where they are.
        """
        if self._head is None:
            return None
        for piece in prefill_pieces(self._limits, len(token_ids), start, 1):
            choosing = self._head.loaded(selection, slot) if piece.num_logits else None
            self._piece(slot, token_ids[piece.begin : piece.end], start + piece.begin, piece, choosing)
        return Selected(
            lambda places: self._work.fetched(self._staging, places), self._head.staging.chosen(slice(0, 1))
        )

    def warm_up(self) -> None:
        """Run every shape that a prompt can bring, once. What slot 0 holds is void afterwards."""
        limits = self._limits
        for num_tokens in limits.prefill_buckets or (limits.prefill_tokens,):
            for num_logits in limits.logits_buckets or (limits.max_logits,):
                piece = Piece(0, num_tokens, num_tokens, min(num_tokens, num_logits), num_logits)
                self._piece(0, np.zeros(num_tokens, np.int64), 0, piece)
        self.token(0, np.zeros(1, np.int64), 0, SelectionTable(1, self._vocab_size))

    def close(self) -> None:
        """Drop the head's run, which must go before the selector."""
        if self._head is not None:
            self._head.close()

    def _piece(
        self, slot: int, token_ids: Int64Array, start: int, piece: Piece, choosing: _Choosing | None = None
    ) -> FloatArray:
        """Run one piece; the rows of logits that it was to give, [num_logits, V], void where a head is ``choosing``."""
        staging, count = self._staging, len(token_ids)
        ids, indices = staging.inputs[graph_io.INPUT_IDS], staging.inputs[graph_io.LOGITS_INDICES]
        ids[:count] = token_ids
        ids[count : piece.num_tokens] = 0
        staging.set_positions(np.array([start]), piece.num_tokens)
        indices[: piece.num_logits] = np.arange(count - piece.num_logits, count)
        indices[piece.num_logits : piece.padded_logits] = count - 1
        call = Call(
            is_decode=False,
            first_slot=slot,
            num_rows=1,
            num_tokens=piece.num_tokens,
            num_logits=piece.padded_logits,
            total_tokens=start + piece.num_tokens,
            addresses=staging.addresses,
        )
        run = self._runner.prepare(call, self._arena)
        with self._work.waited_for():
            queue_graph(run, staging, 0 if choosing else piece.num_logits)
            if choosing is not None:
                queue_selection(choosing.run, choosing.staging)
        return staging.logits[: piece.num_logits]


class _Choosing(NamedTuple):
    """A head's run, and the memory that it reads rules from and writes its choice to."""

    run: Run
    staging: SelectionStaging


class _Head:
    """What chooses a prompt's next token, from the first row of a call's logits."""

    def __init__(self, selector: Selector, device: Device, logits: Staging, vocab_size: int) -> None:
        self.staging = SelectionStaging(device, 1, vocab_size)
        self._selector, self._logits = selector, logits
        self._run: Run | None = None

    def loaded(self, selection: SelectionTable, slot: int) -> _Choosing:
        """The run, made when it is wanted first, with the rules of a slot's row."""
        if self._run is None:
            addresses = {**self.staging.addresses, graph_io.LOGITS: self._logits.addresses[graph_io.LOGITS]}
            self._run = self._selector.prepare(1, addresses)
        self.staging.load(selection, slice(slot, slot + 1), (0,))
        return _Choosing(self._run, self.staging)

    def close(self) -> None:
        """Drop the run, if one was made."""
        if self._run is not None:
            self._run.close()
            self._run = None
