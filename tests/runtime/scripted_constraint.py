"""A constraint whose way is a rule on token ids, and which fails loudly on any call out of order.

The masks are late by as many looks as the test says, so no clock and no thread decides a test.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from runtime.errors import ConstraintFailed
from runtime.token_mask import MaskArray

Rule = Callable[[tuple[int, ...]], set[int]]
"""What may come after the tokens generated so far."""

END = 511


def packed(token_ids: set[int], vocab_size: int) -> MaskArray:
    """The mask that holds these tokens."""
    bits = np.zeros(-(-vocab_size // 32) * 32, np.uint8)
    bits[list(token_ids)] = 1
    return np.packbits(bits, bitorder="little").view(np.uint32)


@dataclass
class ScriptedConstraint:
    """A rule, and what goes wrong on its way.

    late      after how many looks the mask of the n-th token of a choice is there
    fail_at   the call that raises, from so many committed tokens on
    forces    what is forced after the committed tokens; None: as long as the rule leaves no choice
    defers    whether the n-th mask of a choice is left to a question, where that is asked for
    end       the end token: a text may end where the rule has it
    """

    rule: Rule
    late: Callable[[int], int] = lambda _position: 0
    fail_at: tuple[str, int] | None = None
    forces: Callable[[tuple[int, ...]], list[int]] | None = None
    defers: Callable[[int], bool] = lambda _position: False
    end: int = END
    vocab_size: int = 512
    matchers: list[ScriptedMatcher] = field(default_factory=list)

    def matcher(self) -> ScriptedMatcher:
        if self.fail_at == ("matcher", 0):
            raise ConstraintFailed("matcher failed")
        self.matchers.append(ScriptedMatcher(self))
        return self.matchers[-1]

    @property
    def all_closed(self) -> bool:
        """True when every matcher was given back."""
        return all(matcher.state == "closed" for matcher in self.matchers)


class ScriptedMatcher:
    """One way. Every call checks that it may come now."""

    def __init__(self, constraint: ScriptedConstraint) -> None:
        self._constraint = constraint
        self.state = "idle"
        self.committed: tuple[int, ...] = ()
        self.waits: list[float] = []
        self.num_begun_late = 0  # masks that were deferred, and waited for without a question
        self.admitted: list[int] = []  # the places of tokens that came without a mask
        self._looks_left = 0
        self._mask: MaskArray | None = None

    def start(self, *, lazily: bool = False) -> None:
        self._expect("start", "idle")
        self.state = "deferred" if lazily and self._constraint.defers(len(self.committed)) else "computing"
        self._looks_left = self._constraint.late(len(self.committed))

    @property
    def is_deferred(self) -> bool:
        self._expect("is_deferred", "idle", "deferred", "computing", "there")
        return self.state == "deferred"

    def admits(self, token_id: int) -> bool:
        self._expect("admits", "deferred")
        is_admitted = token_id in self._allowed()
        self.state = "admitted" if is_admitted else "computing"
        return is_admitted

    def wait(self, timeout_s: float) -> bool:
        self._expect("wait", "computing", "there", "deferred")
        self.waits.append(timeout_s)
        self.num_begun_late += self.state == "deferred"
        if self._looks_left:
            self._looks_left -= 1
            return False
        self.state = "there"
        return True

    def mask(self) -> MaskArray:
        self._expect("mask", "there")
        self._mask = packed(self._allowed(), self._constraint.vocab_size)
        lent = self._mask.view()
        lent.flags.writeable = False
        return lent

    def sole(self) -> int | None:
        self._expect("sole", "there")
        allowed = self._allowed()
        return next(iter(allowed)) if len(allowed) == 1 else None

    def commit(self, token_id: int) -> None:
        self._expect("commit", "there", "admitted")
        if token_id not in self._allowed():
            raise AssertionError(f"{token_id} is none of the tokens after {self.committed}")
        if self.state == "admitted":
            self.admitted.append(len(self.committed))
        elif self._mask is None:
            raise AssertionError("a token was committed without a look at the mask")
        else:
            self._mask[:] = 0  # whoever still looks at it finds nothing
            self._mask = None
        self.committed += (token_id,)
        self.state = "idle"

    def num_allowed(self, token_ids: Sequence[int]) -> int:
        self._expect("num_allowed", "there")
        for count in range(len(token_ids)):
            if token_ids[count] not in self._constraint.rule((*self.committed, *token_ids[:count])):
                return count
        return len(token_ids)

    def forced(self) -> list[int]:
        self._expect("forced", "there")
        if self._constraint.forces is not None:
            return self._constraint.forces(self.committed)
        found: list[int] = []
        while len(found) < 30 and len(next_ones := self._constraint.rule((*self.committed, *found))) == 1:
            found += next_ones
        return found

    def ends_within(self, token_id: int) -> tuple[int, ...]:
        self._expect("ends_within", "there", "admitted")
        after = self._constraint.end in self._constraint.rule((*self.committed, token_id))
        return (0,) * self.may_end + (1,) * after

    @property
    def may_end(self) -> bool:
        self._expect("may_end", "there", "admitted")
        return self._constraint.end in self._allowed()

    def close(self) -> None:
        self._expect("close", "idle", "computing", "there", "deferred", "admitted")
        self.state = "closed"

    def _allowed(self) -> set[int]:
        return self._constraint.rule(self.committed)

    def _expect(self, call: str, *states: str) -> None:
        if self.state not in states:
            raise AssertionError(f"{call} while {self.state}, after {self.committed}")
        failing, num_committed = self._constraint.fail_at or ("", 0)
        if call == failing and len(self.committed) >= num_committed:
            raise ConstraintFailed(f"{call} failed")


def by_fives(generated: tuple[int, ...]) -> set[int]:
    """The n-th token leaves n when divided by five; from the sixth on the text may end."""
    return {token for token in range(500) if token % 5 == len(generated) % 5} | (
        {END} if len(generated) >= 5 else set()
    )


def one_of(token_ids: Iterable[int]) -> Rule:
    """Any of these tokens, whatever came before."""
    allowed = set(token_ids)
    return lambda _generated: set(allowed)


def only(*token_ids: int) -> Rule:
    """Exactly these tokens, and then the end."""

    def rule(generated: tuple[int, ...]) -> set[int]:
        return {token_ids[len(generated)]} if len(generated) < len(token_ids) else {END}

    return rule


def ruled_reply(prompt: list[int], num_tokens: int, rule: Rule = by_fives) -> list[int]:
    """What ``adding`` generates under a rule: its token where allowed, else the lowest that is."""
    history = list(prompt)
    while len(history) < len(prompt) + num_tokens:
        allowed = rule(tuple(history[len(prompt) :]))
        wished = sum(history) % 500
        history.append(wished if wished in allowed else min(allowed))
    return history[len(prompt) :]
