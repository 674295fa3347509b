"""The constraint of an answer that may open with a reasoning section, or else begin with the same text.

Whoever reads the answer takes a section's mark at its beginning for a section. A pattern or a choice can be written
without the texts that begin so; a context-free grammar cannot. There the text itself decides: once it has begun with a
mark, however it is spelled in tokens, it goes on under the constraint of an answer whose section is open. Owns that
turn; knows no grammar.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from runtime.constraint.constraint import CompiledConstraint
from runtime.token_mask import Constraint, MaskArray, Matcher


class OpeningConstraint:
    """A ``runtime.token_mask.Constraint``. ``undecided`` holds the answer from its start, ``opened`` from behind a mark
    of ``begins`` on. Whatever ``undecided`` lets begin with a mark, it lets be a section.
    """

    def __init__(
        self,
        undecided: Constraint,
        opened: CompiledConstraint,
        begins: Sequence[str],
        token_bytes: Callable[[int], bytes],
    ) -> None:
        self._undecided = undecided
        self._opened = opened
        self._begins = tuple(begin.encode() for begin in begins)
        self._token_bytes = token_bytes

    def matcher(self) -> Matcher:
        """A way from the start of the text. Raises ConstraintFailed."""
        return _OpeningMatcher(self._undecided.matcher(), self._opened, self._begins, self._token_bytes)


class _OpeningMatcher:
    """See ``runtime.token_mask.Matcher``. ``_text`` is all of the text while it may become a mark, then None."""

    def __init__(
        self,
        inside: Matcher,
        opened: CompiledConstraint,
        begins: tuple[bytes, ...],
        token_bytes: Callable[[int], bytes],
    ) -> None:
        self._inside = inside
        self._opened = opened
        self._begins = begins
        self._token_bytes = token_bytes
        self._text: bytes | None = b""

    def start(self, *, lazily: bool = False) -> None:
        """As the constraint that holds."""
        self._inside.start(lazily=lazily)

    @property
    def is_deferred(self) -> bool:
        """As the constraint that holds."""
        return self._inside.is_deferred

    def admits(self, token_id: int) -> bool:
        """As the constraint that holds."""
        return self._inside.admits(token_id)

    def wait(self, timeout_s: float) -> bool:
        """As the constraint that holds."""
        return self._inside.wait(timeout_s)

    def mask(self) -> MaskArray:
        """As the constraint that holds."""
        return self._inside.mask()

    def sole(self) -> int | None:
        """As the constraint that holds."""
        return self._inside.sole()

    def commit(self, token_id: int) -> None:
        """Go on by a token, with which a section may begin. Raises ConstraintFailed."""
        self._inside.commit(token_id)
        if self._text is None:
            return
        text = self._text + self._token_bytes(token_id)
        begin = next((begin for begin in self._begins if text.startswith(begin)), None)
        if begin is not None:
            self._inside.close()
            self._inside = self._opened.matcher(after=text[len(begin) :])
        is_decided = begin is not None or not any(begin.startswith(text) for begin in self._begins)
        self._text = None if is_decided else text

    def num_allowed(self, token_ids: Sequence[int]) -> int:
        """As the constraint that holds; nothing while that may change."""
        return self._inside.num_allowed(token_ids) if self._text is None else 0

    def forced(self) -> list[int]:
        """As the constraint that holds; nothing while that may change."""
        return self._inside.forced() if self._text is None else []

    def ends_within(self, token_id: int) -> tuple[int, ...]:
        """As the constraint that holds. What has begun with a mark has not ended yet."""
        ends, text = self._inside.ends_within(token_id), self._text
        if text is None:
            return ends
        spelled = self._token_bytes(token_id)
        return tuple(end for end in ends if not (text + spelled[:end]).startswith(self._begins))

    @property
    def may_end(self) -> bool:
        """As the constraint that holds."""
        return self._inside.may_end

    def close(self) -> None:
        """As the constraint that holds."""
        self._inside.close()
