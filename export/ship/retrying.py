"""How often a place that fails is asked again, and how long is waited before. Knows no place."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from export.errors import TransferError
from export.ship.depot import Interrupted

Result = TypeVar("Result")

_FIRST_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 15.0


@dataclass(frozen=True, slots=True)
class Patience:
    """``tries`` in a row that may bring nothing; ``pause`` waits for a number of seconds."""

    tries: int = 6
    pause: Callable[[float], None] = time.sleep

    def insist(self, act: Callable[[], Result], progress: Callable[[], int] = lambda: 0) -> Result:
        """What ``act`` gives, called again after Interrupted. Where ``progress`` grew meanwhile the count begins anew.

        Raises TransferError with the last interruption's words.
        """
        failed, before = 0, progress()
        while True:
            try:
                return act()
            except Interrupted as error:
                now = progress()
                failed = 1 if now > before else failed + 1
                before = now
                if failed >= self.tries:
                    raise TransferError(f"{error}; tried {failed} times; what came so far is kept") from error
                self.pause(min(_LONGEST_PAUSE_SECONDS, _FIRST_PAUSE_SECONDS * 2 ** (failed - 1)))
