"""What people see of a build: on a terminal a bar per running step, elsewhere lines; then the summary."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from export.pipeline.amounts import seconds_text, size_text
from export.pipeline.display import shown_build
from export.pipeline.report import summary_lines
from export.pipeline.runner import Outcome, State
from export.pipeline.steps import FetchStep, PlaceStep
from export.source.recipe import FileSource, Recipe

RECIPE = Recipe(name="tiny", source=FileSource(path="a.gguf"))
FETCH = FetchStep("tiny", (), RECIPE, Path())
PLACE = PlaceStep("tiny", ("fetch tiny",), RECIPE, Path(), Path("out"), "package tiny", "fetch tiny", {})


@pytest.mark.parametrize("is_terminal", [False, True])
def test_a_step_is_shown_from_its_start_to_its_end(is_terminal: bool) -> None:
    shown = io.StringIO()
    with shown_build(Console(file=shown, force_terminal=is_terminal, width=120, color_system=None)) as display:
        display.started(FETCH, "not built yet [x]")
        display.stage(FETCH, "Reading", 10)
        display.advanced(FETCH, 5)
        display.said(FETCH, "a word for the log")
        display.ended(Outcome(FETCH, State.FAILED, "no such file [y]", 1.0, Path("l.log")))
        display.ended(Outcome(PLACE, State.FRESH))
    text = shown.getvalue()
    assert ("Reading" in text) == is_terminal  # drawn when the failure's line is written above the bars
    assert text.count("fetch tiny: failed: no such file [y]") == 1
    assert "a word" not in text
    assert "place tiny" not in text
    if not is_terminal:
        assert text.splitlines() == ["fetch tiny: not built yet [x]", "fetch tiny: failed: no such file [y]"]


def test_the_summary_counts_and_names_what_did_not_come_out() -> None:
    lost = Outcome(FETCH, State.FAILED, "no such file", 1.0, Path("l.log"))
    assert summary_lines([lost, Outcome(PLACE, State.SKIPPED, "needs fetch tiny")]) == [
        "2 steps: 1 failed, 1 not done",
        "  fetch tiny: no such file",
        "    log: l.log",
        "  not in place: tiny",
    ]
    assert [size_text(None), size_text(3 * 2**20), size_text(3 * 2**29)] == ["?", "3 MiB", "1.5 GiB"]
    assert [seconds_text(None), seconds_text(59.4), seconds_text(125)] == ["?", "59 s", "2 min 05 s"]
