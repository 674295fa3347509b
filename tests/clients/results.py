"""What came of the clients' checks, as the table that is printed and shown in ``docs/clients.md``."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from tests.clients.catalogue import Client
from tests.paths import ROOT

DOCUMENT = ROOT / "docs" / "clients.md"
HEADING = "## Results\n"
COLUMNS = ("plain", "stream", "structured", "tool", "result", "error", "log-likelihood")
WORST_LENGTH = 160


@dataclass(frozen=True, slots=True)
class Note:
    """One check: the table's column, which of several it was, and what went wrong (nothing if empty)."""

    column: str
    what: str
    failure: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """All of one client's checks, or why none was made."""

    client: Client
    notes: tuple[Note, ...]
    not_run: str = ""

    @property
    def failures(self) -> list[Note]:
        """The checks that did not pass."""
        return [note for note in self.notes if note.failure]

    def cell(self, column: str) -> str:
        """Whether all checks of a column passed; a dash where there was none."""
        notes = [note for note in self.notes if note.column == column]
        if not notes:
            return "–"
        return "✗" if any(note.failure for note in notes) else "✓"

    def row(self) -> str:
        """The client's line of the table."""
        told = (
            [f"not run: {_shortened(self.not_run)}"]
            if self.not_run
            else [self.client.remark]
            if self.client.remark
            else []
        )
        told += [f"{note.what or note.column}: {_shortened(note.failure)}" for note in self.failures]
        cells = [self.client.title, self.client.version(), self.client.tried, *map(self.cell, COLUMNS), "; ".join(told)]
        return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def read_notes(file: Path) -> tuple[Note, ...]:
    """The notes that a script left, one a line; none if it never got that far."""
    if not file.is_file():
        return ()
    return tuple(Note(**json.loads(line)) for line in file.read_text(encoding="utf-8").splitlines())


def table(outcomes: list[Outcome]) -> str:
    """The table in Markdown."""
    heads = ["client", "version", "tried", *COLUMNS, "remark"]
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads), *(outcome.row() for outcome in outcomes)]
    return "\n".join(lines) + "\n"


def write_document(outcomes: list[Outcome], *, day: str, python: str, node: str) -> None:
    """Put the table in the place of the document's last one."""
    text = DOCUMENT.read_text(encoding="utf-8").partition(HEADING)[0]
    about = f"{day}, Python {python}, Node {node}, the default model on a CPU.\n"
    DOCUMENT.write_text(f"{text}{HEADING}\n{about}\n{table(outcomes)}", encoding="utf-8")


def _shortened(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= WORST_LENGTH else f"{line[:WORST_LENGTH]} …"
