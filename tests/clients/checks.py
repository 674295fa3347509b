"""What every client is asked to do, and the note of how it went.

Runs inside a client's own environment, so it imports nothing but the standard library. It knows no client.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

QUESTION = "Name three rivers in France."
CITY_QUESTION = "What is the weather in Paris?"
WEATHER = "18 C and rain in Paris"
UNKNOWN_MODEL = "no-such-model"
MAX_TOKENS = 24
"""Of an answer in words: enough for several pieces."""
CALL_TOKENS = 64
"""Enough for a whole call or object."""
CITIES = ["Paris", "Lyon", "Nice"]
UNITS = ["C", "F"]
WEATHER_PARAMETERS: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string", "enum": CITIES}, "unit": {"type": "string", "enum": UNITS}},
    "required": ["city", "unit"],
    "additionalProperties": False,
}
"""Bounded, so that the smallest model ends its answer too. As it is satisfied or not, no model's wits are tested."""


class Failed(Exception):
    """A client got something else than it should have."""


def ensure(holds: bool, what: object) -> None:
    """Fail with what came instead."""
    if not holds:
        raise Failed(str(what))


def ensure_weather(arguments: object, *, closed: bool = True) -> None:
    """Whether arguments, as text or as an object, satisfy ``WEATHER_PARAMETERS``.

    ``closed`` is false for clients that leave ``additionalProperties`` out of it: then more may stand there.
    """
    given: Any = json.loads(arguments) if isinstance(arguments, str) else arguments
    fits = isinstance(given, dict) and {"city", "unit"} <= set(given) and not (closed and len(given) > 2)
    ensure(fits and given["city"] in CITIES and given["unit"] in UNITS, given)


def ensure_pieces(pieces: list[str]) -> None:
    """Whether a stream came in several pieces that hold text."""
    ensure(len(pieces) > 1 and bool("".join(pieces).strip()), pieces)


class Checks:
    """The checks of one script, run in the order in which they are written: ``BASE_URL MODEL RESULTS`` on the line."""

    def __init__(self) -> None:
        self.base_url, self.model = sys.argv[1], sys.argv[2]
        self._results = Path(sys.argv[3])

    @property
    def api_url(self) -> str:
        return f"{self.base_url}/v1"

    def check(self, column: str, what: str = "") -> Callable[[Callable[[], object]], Callable[[], object]]:
        """Run the function at once. ``column`` is the table's, ``what`` tells several checks of one column apart."""

        def run(function: Callable[[], object]) -> Callable[[], object]:
            failure = ""
            try:
                function()
            except Exception as error:  # noqa: BLE001 - whatever a client raises is what it did
                failure = f"{type(error).__name__}: {error}"
            self._note(column, what, failure)
            return function

        return run

    def refusal(self, expected: type[BaseException], what: str = "") -> Callable[[Callable[[], object]], object]:
        """Check that the function, which asks for an unknown model, raises the client's own ``expected``."""

        def run(function: Callable[[], object]) -> object:
            def refused() -> None:
                try:
                    answer = function()
                except expected as error:
                    ensure(UNKNOWN_MODEL in str(error), error)
                else:
                    ensure(False, f"no error but {answer!r}")

            return self.check("error", what)(refused)

        return run

    def _note(self, column: str, what: str, failure: str) -> None:
        with self._results.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"column": column, "what": what, "failure": failure[:2000]}) + "\n")
