"""What a build says where nobody watches: a line stays one line, however narrow the log is taken to be."""

from __future__ import annotations

import io

from rich.console import Console

from export.progress import TerminalReporter


def test_a_log_s_lines_are_not_broken() -> None:
    log = io.StringIO()
    reporter = TerminalReporter(Console(file=log, width=20))
    title, said = "a stage with a title of many words", "models/x: 136 MiB in 40.9 s, mean KL 0.0165"
    with reporter.stage(title, 3) as advance:
        advance(3)
    reporter.say(said)
    assert log.getvalue().splitlines() == [title, said]
