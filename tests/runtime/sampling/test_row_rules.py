"""A choice's rules as a session gets them: what they make of a row is what the host's rules make of it, bit by bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from runtime.package import selection_io as io
from runtime.sampling.allowed_tokens import Allowed
from runtime.sampling.row_rules import RowRules, taken
from runtime.sampling.sampler import SamplerState
from runtime.session.selected import Chosen
from tests.runtime.engine_driver import request
from tests.runtime.scripted_constraint import packed

V = 100


def state_of(
    seen: tuple[int, ...] = (), prompt: tuple[int, ...] = (1, 2, 3), eos: int = -1, **rules: Any
) -> SamplerState:
    made = SamplerState(request("r", list(prompt), eos=eos, **{"temperature": 1.0, "seed": 1, **rules}), 0)
    for token_id in seen:
        made.rules.observe(token_id)
    return made


def edited(rules: RowRules, slot: int, logits: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """A row [V] after the slot's edits and mask, in the order and arithmetic of ``runtime.package.selection_io``."""
    row = np.append(logits, np.float32(-np.inf))  # what edits nothing goes to id V
    columns = {name: rules.table.columns[name][slot] for name in (io.EDIT_IDS, io.EDIT_BIAS, io.EDIT_PENALTY)}
    ids = columns[io.EDIT_IDS]
    values = row[ids] + columns[io.EDIT_BIAS]
    penalty = columns[io.EDIT_PENALTY]
    values = np.where(values > 0, values / penalty, values * penalty)
    row[ids] = values - rules.table.columns[io.EDIT_SUBTRACT][slot]
    row = row[:V]
    mask = rules.table.masks.get(slot)
    if mask is not None:
        row[np.unpackbits(mask.view(np.uint8), bitorder="little")[:V] == 0] = -np.inf
    return row


RULES: list[dict[str, Any]] = [
    {},
    {"logit_bias": ((3, 200.0), (4, -200.0), (5, 0.25))},
    {"repetition_penalty": 1.7, "presence_penalty": 0.3},
    {"frequency_penalty": -0.7, "presence_penalty": 0.3, "logit_bias": ((7, 2.0), (50, -1.0))},
    {"bad_words": ((8,), (9, 10), (7, 11), (7, 7, 12)), "logit_bias": ((8, 5.0),)},
    {"min_tokens": 4, "eos": 60, "stop_token_ids": frozenset({61, 62})},
    {"min_tokens": 2, "eos": 60},  # in force no more
    {"allowed_token_ids": (5, 7, 9, 99), "repetition_penalty": 0.8},
]


@pytest.mark.parametrize("rules", RULES, ids=str)
def test_edits_and_masks_are_the_hosts_rules(rules: dict[str, Any]) -> None:
    seen = (7, 9, 7)
    state = state_of(seen, **rules)
    logits = (np.random.default_rng(2).standard_normal(V) * 5).astype(np.float32)
    expected = logits.copy()
    state.rules.apply(expected)
    kept = RowRules(3, V)
    for slot in (2, 0):
        assert kept.write(slot, state, None)
        np.testing.assert_array_equal(edited(kept, slot, logits), expected)
    # Another choice in the same slot takes nothing over.
    assert kept.write(0, state_of(), None)
    np.testing.assert_array_equal(edited(kept, 0, logits), logits)


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ({"temperature": 0.0, "top_p": 0.5, "top_k": 7, "min_p": 0.1}, (1.0, 1, 1.0, 0.0)),
        ({"temperature": 0.5, "top_p": 0.9, "top_k": 7, "min_p": 0.1}, (2.0, 7, 0.9, 0.1)),
        ({"temperature": 2.0, "top_k": 2**40}, (0.5, 2**31 - 1, 1.0, 0.0)),
    ],
)
def test_how_a_row_is_cut(rules: dict[str, Any], expected: tuple[float, ...]) -> None:
    kept = RowRules(2, V)
    assert kept.write(1, state_of(**rules), None)
    names = (io.INVERSE_TEMPERATURE, io.TOP_K, io.TOP_P, io.MIN_P)
    assert [float(kept.table.columns[name][1]) for name in names] == pytest.approx(expected)


@pytest.mark.parametrize(
    "rules",
    [
        {"logit_bias": tuple((token_id, 1.0) for token_id in range(33))},
        {"repetition_penalty": 1.1, "prompt": tuple(range(33))},
        {"presence_penalty": 0.1, "seen": tuple(range(33))},
        {"repetition_penalty": 1.1, "prompt": tuple(range(20)), "logit_bias": tuple((40 + i, 1.0) for i in range(13))},
        {"allowed_token_ids": (1, 2), "logprobs": 0},
        {"logprobs": 21},
    ],
    ids=str,
)
def test_what_only_the_host_can_draw_takes_no_number(rules: dict[str, Any]) -> None:
    state = state_of(**rules)
    assert not RowRules(1, V).write(0, state, None)
    assert state.uniform() == state_of().uniform()


def test_as_many_edits_as_there_are_places_fit() -> None:
    assert RowRules(1, V).write(0, state_of(logit_bias=tuple((token_id, 1.0) for token_id in range(32))), None)
    assert RowRules(1, V).write(0, state_of(repetition_penalty=1.1, prompt=tuple(range(32))), None)


def test_each_token_has_its_number_whoever_draws_it_and_however_early_it_is_written() -> None:
    one = state_of()
    expected = [one.uniform() for _ in range(70)]  # more than are drawn at a time
    kept, state, numbers, early = RowRules(1, V), state_of(), [], []
    for step in range(69):
        assert kept.write(0, state, None)
        numbers.append(float(kept.table.columns[io.UNIFORM][0]))
        assert kept.write(0, state, None, ahead=1)
        early.append(float(kept.table.columns[io.UNIFORM][0]))
        assert state.uniform() == expected[step]  # the host draws, or notes that the session did
    assert numbers == [np.float32(value) for value in expected[:69]]
    assert early == [np.float32(value) for value in expected[1:]]
    greedy = state_of(temperature=0.0)
    assert kept.write(0, greedy, None, ahead=1)
    assert greedy.uniform() == 0.0


def test_a_mask_is_that_of_the_constraint_and_the_request() -> None:
    kept = RowRules(2, V)
    allowed = Allowed(packed({3, 4, 5, 61}, V), may_end=True)
    assert kept.write(1, state_of(allowed_token_ids=(4, 5, 6)), allowed)
    np.testing.assert_array_equal(kept.table.masks[1], packed({4, 5}, V))
    assert kept.write(1, state_of(stop_token_ids=frozenset({60})), allowed)
    np.testing.assert_array_equal(kept.table.masks[1], packed({3, 4, 5, 60, 61}, V))
    assert kept.write(1, state_of(), None)
    assert kept.table.masks == {}


def test_only_what_is_settled_is_taken_and_it_is_noted() -> None:
    states = [state_of(), state_of(logprobs=2), state_of(logprobs=2), None, state_of(presence_penalty=1.0)]
    top = np.tile(np.arange(20, dtype=np.int32), (5, 1))
    logprobs = np.tile(-np.arange(20, dtype=np.float32), (5, 1))
    logprobs[1, 1] = -np.inf
    settled = np.array([io.TOKEN_SETTLED, io.TOKEN_SETTLED + io.TOP_SETTLED, io.TOKEN_SETTLED, 3, 3], np.int32)
    chosen = Chosen(np.arange(10, 15, dtype=np.int32), settled, np.full(5, -0.5, np.float32), top, logprobs)
    found = taken(chosen, states)
    assert [None if one is None else one.token_id for one in found] == [10, 11, None, None, 14]
    assert found[1] is not None
    assert found[1].logprobs is not None
    assert (found[1].logprobs.logprob, found[1].logprobs.top) == (-0.5, ((0, 0.0), (1, -9999.0)))
    assert taken(Chosen(chosen.tokens, np.zeros(5, np.int32), chosen.logprobs, top, logprobs), states) == [None] * 5
    last = states[4]
    assert last is not None
    row = np.zeros(V, np.float32)
    last.rules.apply(row)
    assert row[14] == -1.0
