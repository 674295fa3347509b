"""A selection head in standard operators: rows of logits and their rules -> a token per row, for any dialect's graph.

What goes in and out, and by which rule, is ``runtime.package.selection_io``'s. Sums over the vocabulary go in three
steps, so that no more than some 200 numbers are added one after the other. Knows no decoder and no weights.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from runtime.package import selection_io as io

from export.graph.dialect import Value
from export.graph.selection_draw import Draw, token_at
from export.graph.selection_values import Values
from export.graph.writer import GRAPH_FILE, GraphWriter

_SUMMED = 64
_LISTED = 64
"""Likeliest tokens among which the told ones are, whatever the edits: 20 of them, and 32 that edits put before."""
_NO_NUMBER = 1e30
_INT32 = 6


def write_selection_graph(folder: Path, vocab_size: int, opset: int, *, has_mask: bool) -> Path:
    """Write a graph of the head alone below ``folder``; returns its path."""
    with GraphWriter(folder) as writer:
        writer.input(io.LOGITS, np.float32, ("batch", vocab_size))
        emit_selection(writer, io.LOGITS, vocab_size, has_mask=has_mask)
        writer.save(opset)
    return folder / GRAPH_FILE


def emit_selection(writer: GraphWriter, logits: Value, vocab_size: int, *, has_mask: bool) -> None:
    """Append the head to a graph that makes ``logits``, float32 [B, V], with its other inputs and all its outputs."""
    for name in (io.INVERSE_TEMPERATURE, io.TOP_P, io.MIN_P, io.UNIFORM):
        writer.input(name, np.float32, ("batch",))
    writer.input(io.TOP_K, np.int32, ("batch",))
    writer.input(io.EDIT_IDS, np.int32, ("batch", io.MAX_EDITS))
    for name in (io.EDIT_BIAS, io.EDIT_PENALTY, io.EDIT_SUBTRACT):
        writer.input(name, np.float32, ("batch", io.MAX_EDITS))
    if has_mask:
        writer.input(io.MASK, np.uint8, ("batch", io.mask_bytes(vocab_size)))
    _Head(Values(writer, "selection"), vocab_size).emit(logits, has_mask=has_mask)
    for name in (io.DRAWN, io.SETTLED):
        writer.output(name, np.int32, ("batch",))
    writer.output(io.LOGPROB, np.float32, ("batch",))
    writer.output(io.TOP_IDS, np.int32, ("batch", io.MAX_TOP_LOGPROBS))
    writer.output(io.TOP_LOGPROBS, np.float32, ("batch", io.MAX_TOP_LOGPROBS))


class _Head:
    """Emits one head. Values of one number per row are [B, 1]."""

    def __init__(self, values: Values, vocab_size: int) -> None:
        self.v = values
        self.vocab_size = vocab_size
        # At least one column more than V, where edits that change nothing go.
        self.width = -(-(vocab_size + 1) // _SUMMED**2) * _SUMMED**2

    def emit(self, logits: Value, *, has_mask: bool) -> None:
        """All nodes from the logits to the outputs."""
        v = self.v
        if has_mask:
            logits = v.op("Add", logits, self._hiding())  # by adding, because a NaN stays one
        border = v.ints(0, 0, 0, self.width - self.vocab_size)
        raw = v.op("Pad", logits, border, v.number(-np.inf))  # [B, W]
        edit_ids = v.index(io.EDIT_IDS)  # [B, E]
        raw_edits = v.op("GatherElements", raw, edit_ids, axis=1)
        edited = v.op("ScatterElements", raw, edit_ids, self._edited(raw_edits), axis=1)
        top, places = v.sorted(edited, io.TOP_TOKENS)  # [B, K], likeliest first
        ids = v.real(places)  # exact: a vocabulary has less than 2**24 tokens
        peak, scale = v.part(top, 0, 1), v.column(io.INVERSE_TEMPERATURE)
        total = self._total(v.op("Mul", v.op("Sub", edited, peak), scale))
        weights = v.op("Exp", v.op("Mul", v.op("Sub", top, peak), scale))
        place, is_certain = Draw(v, weights, total).place()
        token, is_alone = token_at(v, top, ids, place)
        listed, listed_ids = self._listed(top, ids, raw_edits)
        raw_peak = v.op("ReduceMax", listed, v.ints(1), keepdims=1)
        raw_total = self._total(v.op("Sub", raw, raw_peak))
        normaliser = v.op("Add", raw_peak, v.op("Log", raw_total))
        is_usable = self._is_number(total)  # no edit makes a number of what is none
        is_complete = self._tell_top(listed, listed_ids, top, normaliser)
        self._tell(raw, token, normaliser)
        is_settled = v.op("And", v.op("And", is_certain, is_alone), is_usable)
        told = v.op("Mul", v.real(v.op("And", is_complete, is_usable)), v.number(io.TOP_SETTLED))
        self._output(v.op("Add", v.real(is_settled), told), io.SETTLED)

    def _hiding(self) -> Value:
        """0 for each token of the mask and -inf for the others [B, V]; the lowest bit of a byte is its first token."""
        v = self.v
        halves = (0.5 ** np.arange(9)).astype(np.float32)
        numbers = v.op("Unsqueeze", v.real(io.MASK), v.ints(2))  # [B, bytes, 1]
        here = v.op("Floor", v.op("Mul", numbers, v.floats("bits", halves[:8])))
        above = v.op("Floor", v.op("Mul", numbers, v.floats("bits_above", halves[1:])))
        bits = v.op("Sub", here, v.op("Mul", above, v.number(2.0)))  # [B, bytes, 8]
        flat = v.op("Reshape", bits, v.ints(-1, 8 * io.mask_bytes(self.vocab_size)))
        is_allowed = v.op("Greater", v.part(flat, 0, self.vocab_size), v.number(0.5))
        return v.op("Where", is_allowed, v.number(0.0), v.number(-np.inf))

    def _edited(self, logits: Value) -> Value:
        """The logits [B, E] of the edited tokens after their edits, in the host's order and arithmetic."""
        v = self.v
        biased = v.op("Add", logits, io.EDIT_BIAS)
        is_above = v.op("Greater", biased, v.number(0.0))
        divided, multiplied = v.op("Div", biased, io.EDIT_PENALTY), v.op("Mul", biased, io.EDIT_PENALTY)
        return v.op("Sub", v.op("Where", is_above, divided, multiplied), io.EDIT_SUBTRACT)

    def _total(self, exponents: Value) -> Value:
        """Sum of exp of each row [B, W]."""
        v = self.v
        shape = v.ints(-1, _SUMMED, _SUMMED, self.width // _SUMMED**2)
        value = v.op("Reshape", v.op("Exp", exponents), shape)
        for axis in (3, 2):
            value = v.op("ReduceSum", value, v.ints(axis), keepdims=0)
        return v.op("ReduceSum", value, v.ints(1), keepdims=1)

    def _is_number(self, total: Value) -> Value:
        """False for NaN, which is greater than nothing, and for an infinite total."""
        v = self.v
        return v.op("And", v.op("Greater", total, v.number(0.5)), v.op("Greater", v.number(_NO_NUMBER), total))

    def _listed(self, top: Value, ids: Value, raw_edits: Value) -> tuple[Value, Value]:
        """Logits before edits, and ids, of tokens among which the likeliest by those are [B, 96]."""
        v = self.v
        edit_ids = v.real(io.EDIT_IDS)
        some_ids = v.part(ids, 0, _LISTED)
        same = v.op("Equal", v.op("Unsqueeze", some_ids, v.ints(2)), v.op("Unsqueeze", edit_ids, v.ints(1)))
        is_edited = v.op("Greater", v.op("ReduceSum", v.real(same), v.ints(2), keepdims=0), v.number(0.5))
        others = v.op("Where", is_edited, v.number(-np.inf), v.part(top, 0, _LISTED))
        return v.op("Concat", others, raw_edits, axis=1), v.op("Concat", some_ids, edit_ids, axis=1)

    def _tell_top(self, listed: Value, ids: Value, top: Value, normaliser: Value) -> Value:
        """Make the outputs of the likeliest by comparing all with all; whether none of them can be missing [B, 1]."""
        v = self.v
        mine, other = (v.op("Unsqueeze", listed, v.ints(axis)) for axis in (2, 1))  # [B, 96, 1], [B, 1, 96]
        my_id, other_id = (v.op("Unsqueeze", ids, v.ints(axis)) for axis in (2, 1))
        ties = v.op("And", v.op("Equal", other, mine), v.op("Less", other_id, my_id))
        before = v.op("Or", v.op("Greater", other, mine), ties)
        rank = v.op("ReduceSum", v.real(before), v.ints(2), keepdims=0)  # [B, 96]
        wanted = np.arange(io.MAX_TOP_LOGPROBS, dtype=np.float32)[np.newaxis, :, np.newaxis]
        is_it = v.op("Equal", v.op("Unsqueeze", rank, v.ints(1)), v.floats("ranks", wanted))  # [B, 20, 96]
        told = v.op("ReduceMax", v.op("Where", is_it, other, v.number(-np.inf)), v.ints(2), keepdims=0)
        told_ids = v.op("ReduceMax", v.op("Where", is_it, other_id, v.number(-1.0)), v.ints(2), keepdims=0)
        v.op("Cast", told_ids, out=io.TOP_IDS, to=_INT32)
        v.op("Sub", told, normaliser, out=io.TOP_LOGPROBS)
        lightest = v.part(told, io.MAX_TOP_LOGPROBS - 1, io.MAX_TOP_LOGPROBS)
        unseen = v.part(top, _LISTED - 1, _LISTED)
        is_all = v.op("Not", v.op("Greater", unseen, v.number(-np.inf)))
        return v.op("Or", v.op("Greater", lightest, unseen), is_all)

    def _tell(self, raw: Value, token: Value, normaliser: Value) -> None:
        """Make the outputs of the drawn token; one that is none becomes V, whose logit is -inf."""
        v = self.v
        known = v.op("Min", token, v.number(self.vocab_size))
        logit = v.op("GatherElements", raw, v.index(known), axis=1)
        v.op("Squeeze", v.op("Sub", logit, normaliser), v.ints(1), out=io.LOGPROB)
        # A step that is launched before this one was looked at computes the token, whatever it is: it must be one.
        self._output(v.op("Min", token, v.number(self.vocab_size - 1)), io.DRAWN)

    def _output(self, x: Value, name: str) -> None:
        self.v.op("Cast", self.v.op("Squeeze", x, self.v.ints(1)), out=name, to=_INT32)
