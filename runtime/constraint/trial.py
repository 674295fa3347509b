"""Tries a constraint: writes its grammar, compiles it, computes its first masks and some along random ways.

Runs in a process that may crash, hang or run out of memory doing so; what passes here is compiled by the server itself.
Knows no process.
"""

from __future__ import annotations

import ctypes
import random
import time

import llguidance
import msgspec

from runtime.constraint import limits
from runtime.constraint.grammar import Grammar, grammar_of
from runtime.constraint.lexer_steps import lexer_steps
from runtime.constraint.library_call import LIBRARY_CALL
from runtime.constraint.library_error import OUT_OF_STEPS, meaning
from runtime.constraint.spec import Part
from runtime.constraint.token_table import TokenTable
from runtime.constraint.vocabulary import Vocabulary
from runtime.errors import ConstraintFailed, RequestError

_WALKS, _STEPS = 3, 16
_COUNTING_SHARE, _MOST_TIMES = 0.5, 8
"""Of a trial's time, until when a refused constraint's steps may be counted; and of the limit, how far."""


class Trial(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """The grammar's text and what its matcher took of the heap; or why it is refused."""

    grammar: Grammar | None = None
    heap_bytes: int = 0
    refusal: str = ""


class Trials:
    """Tries one constraint after another for one vocabulary."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._control_ids = vocabulary.control_ids
        self._end_ids = frozenset(vocabulary.end_ids)
        self._table = TokenTable(vocabulary)

    def run(self, part: Part) -> Trial:
        """Never raises for what a client may have asked."""
        before, begin_s = heap_bytes(), time.thread_time()
        try:
            grammar = grammar_of(part, self._control_ids)
            matcher = self._compiled(grammar, begin_s)
            self._walk(matcher)
        except (RequestError, ConstraintFailed) as error:
            return Trial(refusal=str(error))
        except RecursionError:
            return Trial(refusal="the constraint is nested too deep to be read")
        return Trial(grammar=grammar, heap_bytes=max(heap_bytes() - before, 0))

    def _compiled(self, grammar: Grammar, begin_s: float) -> llguidance.LLMatcher:
        """As ``compiled``; where patterns took too many steps the refusal says how many there are, if time allows.

        ``begin_s`` is when this trial began, by its thread's clock. The library stops at its limit, so it counts again
        with a wider one.
        """
        compiling_s = time.thread_time()
        try:
            return compiled(self._table, grammar)
        except RequestError as error:
            now_s = time.thread_time()
            left_s = _COUNTING_SHARE * limits.TRIAL_CPU_S - (now_s - begin_s)
            times = int(min(left_s / max(now_s - compiling_s, 1e-3), _MOST_TIMES))
            if times < 2 or not any(words in str(error) for words in OUT_OF_STEPS):
                raise
            counted = lexer_steps(self._table, grammar.text, times * limits.INITIAL_LEXER_FUEL)
            raise RequestError(f"{error}{counted}") from error

    def _walk(self, origin: llguidance.LLMatcher) -> None:
        """Raises RequestError where a mask takes too long, and where nothing may follow."""
        drawn = random.Random(0)  # noqa: S311 - any way will do, the same each time
        deadline = time.thread_time() + limits.TRIAL_WALK_S
        checked_mask(origin)  # what is built for the first mask belongs to compiling
        for _ in range(_WALKS):
            matcher = origin.deep_copy()
            for _ in range(_STEPS):
                token_id = _some_token(checked_mask(matcher, limits.MAX_MASK_S), drawn)
                if token_id in self._end_ids or time.thread_time() > deadline:
                    break
                with LIBRARY_CALL:
                    matcher.consume_token(token_id)


def compiled(table: TokenTable, grammar: Grammar) -> llguidance.LLMatcher:
    """A matcher at the start of the text. Raises RequestError with the library's words, or ConstraintFailed."""
    parser_limits = limits.parser_limits(has_lark=grammar.has_lark)
    with LIBRARY_CALL:
        matcher = llguidance.LLMatcher(table.library, grammar.text, log_level=0, limits=parser_limits)
        _check(matcher)
    return matcher


def heap_bytes() -> int:
    """What the allocator has handed out; 0 where the C library cannot tell (``man 3 mallinfo2``, glibc alone)."""
    mallinfo = getattr(ctypes.CDLL(None), "mallinfo2", None)
    if mallinfo is None:
        return 0
    mallinfo.restype = _Mallinfo
    found = mallinfo()
    return int(found.hblkhd + found.uordblks)


class _Mallinfo(ctypes.Structure):
    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"
        )
    )  # fmt: skip


def checked_mask(matcher: llguidance.LLMatcher, limit_s: float | None = None) -> bytes:
    """The next mask. Raises RequestError where it, or what is forced there, exceeds a limit; or ConstraintFailed."""
    begin = time.thread_time()
    with LIBRARY_CALL:
        mask = matcher.compute_bitmask()
        num_forced = len(matcher.compute_ff_tokens())
    cost_s = time.thread_time() - begin
    if num_forced > limits.MAX_FORCED_TOKENS:
        allowed = f"at most {limits.MAX_FORCED_TOKENS} are allowed"
        raise RequestError(f"it leaves no choice for {num_forced} tokens in a row; {allowed}")
    if limit_s is not None and cost_s > limit_s:
        allowed = f"{limit_s * 1e3:.0f} are allowed"
        raise RequestError(f"it needs {cost_s * 1e3:.0f} ms for one token, {allowed}: it can be read in too many ways")
    _check(matcher)
    return mask


def _check(matcher: llguidance.LLMatcher) -> None:
    if matcher.is_error():
        raise RequestError(f"the constraint cannot be enforced: {meaning(matcher.get_error())}")


def _some_token(mask: bytes, drawn: random.Random) -> int:
    """A token of the mask: the first at or after a random one, around the end."""
    start = drawn.randrange(len(mask))
    turned = mask[start:] + mask[:start]
    skipped = len(turned) - len(turned.lstrip(b"\0"))
    byte = turned[skipped]
    return (start + skipped) % len(mask) * 8 + (byte & -byte).bit_length() - 1
