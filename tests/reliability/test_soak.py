"""The short form of ``make soak``: the same load for seconds; memory and latency are judged in the long form only."""

from __future__ import annotations

from tests.reliability.soak import soak


def test_a_mixed_load_fails_no_good_request_and_leaves_nothing_behind() -> None:
    outcome = soak(4.0)
    assert outcome.broken == []
    assert set(outcome.done) >= {"short", "long_prompt", "choices", "bad"}
