"""The short form of ``make soak``: a minute of the same load; memory and latency are judged in the long form only."""

from __future__ import annotations

import ast
import subprocess

import pytest

MINUTES_AT_MOST = 3


@pytest.mark.timeout(60 * MINUTES_AT_MOST + 10)
def test_a_mixed_load_fails_no_good_request_and_leaves_nothing_behind(short_soak: subprocess.Popen[str]) -> None:
    report, _ = short_soak.communicate(timeout=60 * MINUTES_AT_MOST)
    assert short_soak.returncode == 0, report
    assert "broken: 0" in report
    done = ast.literal_eval(report.partition("requests ")[2].partition(": ")[2].partition("\n")[0])
    assert set(done) >= {"short", "long_prompt", "choices", "sampled", "slow_reader", "leaves", "bad"}
    assert sum(done.values()) > 100
