"""Greedy choices under a constraint whose masks are not computed: which do without, and that none becomes another."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from runtime.engine.config import EngineConfig
from runtime.engine.constrained import Constrained
from runtime.engine.sequence import Sequence
from runtime.engine.step_events import StepEvents
from tests.runtime.engine_driver import Driver, request
from tests.runtime.scripted_constraint import END, ScriptedConstraint, ruled_reply

PROMPT = list(range(1, 41))


def most(generated: tuple[int, ...]) -> set[int]:
    """Four of five tokens."""
    return {token for token in range(500) if token % 5 != len(generated) % 5}


@pytest.mark.parametrize("late", [0, 2])
def test_what_is_likeliest_needs_no_mask_where_it_may_come(late: int) -> None:
    tokens = []
    for defers in (False, True):
        driver = Driver()
        constraint = ScriptedConstraint(most, late=lambda _: late, defers=lambda _, defers=defers: defers)  # type: ignore[misc]
        driver.add(request("a", PROMPT, 40, n=2, constraint=constraint), request("b", [3, 4], 40))
        driver.add(request("c", [5, 6], 40, constraint=constraint, watch_ends=True))
        driver.run()
        tokens.append(driver.tokens)
        for matcher, name in zip(constraint.matchers, "aac", strict=True):
            reply = driver.tokens[name, 0]
            wished = [sum([*(PROMPT if name == "a" else [5, 6]), *reply[:place]]) % 500 for place in range(40)]
            alone = [place for place in range(1, 39) if reply[place] == wished[place]] if defers else []
            assert matcher.admitted == alone
            assert len(matcher.waits) >= 39 - len(alone)  # whose likeliest may not come waits for its mask
    assert len(alone) > 20
    assert tokens[0] == tokens[1]
    assert tokens[0]["a", 0] == ruled_reply(PROMPT, 40, most)


@pytest.mark.parametrize(
    ("sampling", "draft"),
    [
        ({"temperature": 0.5, "seed": 1}, 0),
        ({"logprobs": 0}, 0),
        ({"frequency_penalty": 0.5}, 0),
        ({"logit_bias": ((3, 1.0),)}, 0),
        ({"min_tokens": 2}, 0),
        ({"allowed_token_ids": tuple(range(500))}, 0),
        ({"bad_words": ((9, 8),)}, 0),
        ({"stop_token_ids": frozenset({499})}, 0),
        ({"ignore_eos": True}, 0),
        ({}, 4),
    ],
    ids=str,
)
def test_what_more_than_the_largest_logit_decides_always_has_its_mask(sampling: dict[str, Any], draft: int) -> None:
    driver, constraint = (
        Driver(config=EngineConfig(max_draft_tokens=draft)),
        ScriptedConstraint(most, defers=lambda _: True),
    )
    driver.add(request("a", PROMPT, 12, eos=END, constraint=constraint, **sampling))
    driver.run()
    assert len(driver.tokens["a", 0]) == 12
    assert constraint.matchers[0].admitted == []
    assert constraint.matchers[0].num_begun_late == 0


def test_a_session_that_chooses_tokens_has_the_mask_before_it_does() -> None:
    starts: list[bool] = []

    class Watched(ScriptedConstraint):
        def matcher(self) -> Any:
            matcher = super().matcher()
            begin = matcher.start

            def start(*, lazily: bool = False) -> None:
                starts.append(lazily)
                begin(lazily=lazily)

            matcher.start = start  # type: ignore[method-assign]
            return matcher

    told = StepEvents(Driver().engine._scheduler, lambda: 1)
    for chooses in (False, True):
        constrained = Constrained(told, chooses=chooses)
        sequence = Sequence(request("a", [1, 2], 4, constraint=Watched(most)), 0)
        constrained.begin(sequence)
        assert sequence.matcher is not None
        sequence.matcher.wait(0)
        sequence.matcher.mask()
        sequence.matcher.commit(3)
        constrained.start([sequence])
    assert starts == [False, True, False, False]  # the first mask is needed while the prompt is read


def test_a_row_without_a_number_is_not_asked_about() -> None:
    nothing = np.full(512, np.nan, np.float32)
    driver = Driver(script=lambda history: nothing if history[-1] == 7 else 7)
    driver.add(request("a", [1, 2], 3, constraint=ScriptedConstraint(most, defers=lambda _: True)))
    driver.run()
    assert driver.tokens["a", 0] == [7]
    assert driver.finishes["a", 0].error == "the model produced no usable number"
