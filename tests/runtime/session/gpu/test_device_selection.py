"""Tokens chosen where the logits lie, over the doubles: the host's tokens, few bytes per row, logits on request."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from runtime.engine.config import EngineConfig
from runtime.engine.engine import Engine
from runtime.errors import DeviceError
from runtime.events import FinishEvent, TokenEvent
from runtime.package import selection_io
from runtime.request import Request
from runtime.sampling import sampler
from runtime.session.selection_table import SelectionTable
from runtime.session.session import Session
from tests.runtime.engine_driver import request
from tests.runtime.scripted_constraint import ScriptedConstraint
from tests.runtime.session.gpu.heads import KINDS, SHAPE, SLOTS, Opened, opened

V = SHAPE.vocab_size
ROW_BYTES = 4 * V
TOLD_BYTES = 3 * 256 + 2 * 512
"""Of four rows: three numbers each, and two lists of twenty, each column aligned to 256 bytes."""
PROMPTS = [np.random.default_rng([3, seed]).integers(0, V, 4 + 9 * seed).tolist() for seed in range(5)]
EVERY = frozenset(range(V))


RULES: dict[str, dict[str, Any]] = {
    "greedy": {"logprobs": 3},
    "nucleus": {"temperature": 0.9, "top_p": 0.8, "seed": 1, "logprobs": 0},
    "cut": {"temperature": 1.3, "top_k": 9, "min_p": 0.02, "seed": 2, "logprobs": 20},
    "free": {"temperature": 1.0, "seed": 3},
    "biased": {"temperature": 1.0, "seed": 4, "logit_bias": ((3, 4.0), (5, -100.0), (7, 100.0)), "logprobs": 2},
    "banned": {"temperature": 2.0, "seed": 5, "bad_words": ((8,), (9, 10)), "min_tokens": 6, "stop_token_ids": {4}},
    "penalised": {"temperature": 1.1, "seed": 6, "presence_penalty": 0.7, "frequency_penalty": 0.4},
    "repeated": {"temperature": 1.1, "seed": 7, "repetition_penalty": 1.3},
    "allowed": {"temperature": 1.0, "seed": 8, "allowed_token_ids": (3, 4, 5, 6, 30, 95, 96)},
}
"""Of ``repeated``, prompts of up to 31 distinct tokens fit a head's edits; the rest is the host's."""


def requests() -> list[Request]:
    made = [
        request(name, PROMPTS[index % 5], max_tokens=7 + index % 4, **rules)
        for index, (name, rules) in enumerate(RULES.items())
    ]
    steps = [{1, 2, 3}, set(EVERY - {5, 6}), {90, 91}, {4}, set(EVERY), {7, 8, 9}]
    bound = ScriptedConstraint(lambda said: steps[len(said)], late=lambda place: int(place == 2), vocab_size=V)
    made.append(request("bound", PROMPTS[1], max_tokens=6, temperature=1.0, seed=9, constraint=bound, logprobs=2))
    # Whole rows of logits, in steps in which the others decode.
    made.append(request("scored", PROMPTS[3], max_tokens=5, temperature=1.0, seed=10, prompt_logprobs=0))
    return made


def answers(session: Session) -> dict[str, list[tuple[int, Any]]]:
    """Tokens and log-probabilities by request."""
    engine = Engine(session, EngineConfig(), count(1).__next__)
    found: dict[str, list[tuple[int, Any]]] = {}
    for one in requests():
        engine.add(one)
    while engine.has_work:
        for event in engine.step().events:
            if isinstance(event, TokenEvent):
                found.setdefault(event.request_id, []).append((event.token_id, event.logprobs))
            elif isinstance(event, FinishEvent):
                assert event.error is None, event
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_session_chooses_is_what_the_host_draws(graphs: dict[str, Path], kind: str) -> None:
    ours = answers(opened(kind, graphs).session)
    theirs = answers(opened(kind, graphs, has_head=False).session)
    assert {name: len(rows) for name, rows in ours.items()} == {name: len(rows) for name, rows in theirs.items()}
    for name, rows in theirs.items():
        assert [token for token, _ in ours[name]] == [token for token, _ in rows], name
        for (_, mine), (_, other) in zip(ours[name], rows, strict=True):
            assert (mine is None) == (other is None), name
            if mine is not None and other is not None:
                assert mine.logprob == pytest.approx(other.logprob, abs=2e-5)
                assert [token for token, _ in mine.top] == [token for token, _ in other.top]
                assert [p for _, p in mine.top] == pytest.approx([p for _, p in other.top], abs=2e-5)


def test_the_session_chose_them(graphs: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """No row but those of ``repeated`` beyond 32 edits came to the host."""
    parts = opened("recorded", graphs)
    drawn: list[int] = []
    sample = sampler.sample

    def counted(logits: Any, states: Any, allowed: Any) -> Any:
        drawn.extend(state.params.seed for state in states if state is not None)
        return sample(logits, states, allowed)

    monkeypatch.setattr("runtime.engine.drawing.sample", counted)
    found = answers(parts.session)
    assert set(drawn) <= {7, 9, 10}, drawn  # ``bound`` has a late mask, and ``scored`` its first token
    assert drawn.count(10) == 1
    assert drawn.count(7) < len(found["repeated"])


def select(parts: Opened, table: SelectionTable, slots: list[int], position: int) -> list[int]:
    ids, positions = np.array([5 + slot for slot in slots]), np.full(len(slots), position)
    answer = parts.session.decode_tokens(np.array(slots), ids, positions, table)
    assert answer.chosen is not None
    return [int(token) for token in answer.chosen.tokens]


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_brings_a_few_bytes_per_row_and_logits_on_request(graphs: dict[str, Path], kind: str) -> None:
    parts, table = opened(kind, graphs), SelectionTable(SLOTS, V)
    best = []
    for position in range(4):
        parts.device.downloaded_bytes.clear()
        answer = parts.session.decode_tokens(np.array([1, 3]), np.array([7, 8]), np.full(2, position), table)
        assert answer.chosen is not None
        assert answer.chosen.settled.tolist() == [3, 3]
        best.append(answer.chosen.tokens.tolist())
        assert parts.device.downloaded_bytes == [TOLD_BYTES]
        rows = answer.logits([1])
        assert parts.device.downloaded_bytes == [TOLD_BYTES, ROW_BYTES]
        assert rows.shape == (1, V)
        assert int(rows[0].argmax()) == best[-1][1]
        assert [int(row.argmax()) for row in answer.logits([0, 1])] == best[-1]
    parts.device.downloaded_bytes.clear()
    first = parts.session.prefill_token(2, np.arange(20), 0, table)
    assert first.chosen is not None
    assert parts.device.downloaded_bytes == [3 * 256 + 2 * 256]
    assert [int(first.logits([0])[0].argmax())] == first.chosen.tokens.tolist()


def test_one_recording_holds_the_whole_step(graphs: dict[str, Path]) -> None:
    parts, table = opened("recorded", graphs), SelectionTable(SLOTS, V)
    parts.session.warm_up()
    assert (len(parts.device.recordings), parts.device.launches) == (3, 3)
    before = len(parts.heads[0].made), set(parts.device.blocks), len(parts.device.pinned_blocks)
    for position in range(3):
        for slots in ([0], [2], [0, 1], [1, 3]):
            select(parts, table, slots, position)
        parts.session.prefill_token(1, np.arange(9), 4, table)
    assert (len(parts.device.recordings), parts.device.launches) == (3, 3 + 12)
    assert before == (len(parts.heads[0].made), set(parts.device.blocks), len(parts.device.pinned_blocks))
    assert len(parts.heads[0].made) == 3 + 1  # a context per recording, and one for prompts
    (scratch,) = {context.scratch for context in parts.heads[0].contexts}
    assert scratch is not None
    parts.session.close()


@pytest.mark.parametrize("kind", KINDS)
def test_a_mask_counts_while_its_row_has_one_and_for_its_row_alone(graphs: dict[str, Path], kind: str) -> None:
    parts, table = opened(kind, graphs), SelectionTable(SLOTS, V)
    free = select(parts, table, [0, 1, 2], 0)
    for forbidden in (0, 2):
        mask = np.full(-(-V // 32), 2**32 - 1, np.uint32)
        mask[free[forbidden] // 32] ^= np.uint32(1 << free[forbidden] % 32)
        table.masks[forbidden] = mask
        chosen = select(parts, table, [0, 1, 2], 0)
        del table.masks[forbidden]
        assert [mine == other for mine, other in zip(chosen, free, strict=True)] == [
            row != forbidden for row in range(3)
        ]
        assert select(parts, table, [0, 1, 2], 0) == free
    table.masks[1] = np.array([1 << 13, 0, 0, 0], np.uint32)
    assert parts.session.prefill_token(1, np.arange(3), 0, table).chosen.tokens.tolist() == [13]  # type: ignore[union-attr]
    del table.masks[1]
    answer = parts.session.prefill_token(1, np.arange(3), 0, table)
    assert answer.chosen is not None
    assert answer.chosen.tokens.tolist() == [int(answer.logits([0])[0].argmax())]


def test_logits_that_do_not_come_down_end_their_rows_alone(
    graphs: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = opened("recorded", graphs)
    engine = Engine(parts.session, EngineConfig(prefill_chunk_tokens=64, idle_prefill_chunk_tokens=64))
    engine.add(request("host", PROMPTS[4], max_tokens=9, temperature=1.0, repetition_penalty=1.2))
    ends: dict[str, str | None] = {}

    def refuse(*_: Any) -> None:
        raise DeviceError("the copy was refused")

    engine.step()
    engine.add(request("next", PROMPTS[0], max_tokens=3))
    with monkeypatch.context() as patch:
        patch.setattr(parts.session._work, "fetched", refuse)
        ends |= {e.request_id: e.error for e in engine.step().events if isinstance(e, FinishEvent)}
    while engine.has_work:
        ends |= {e.request_id: e.error for e in engine.step().events if isinstance(e, FinishEvent)}
    assert ends == {"host": "DeviceError: the copy was refused", "next": None}


def test_rows_of_logits_in_a_step_leave_the_others_their_numbers(graphs: dict[str, Path]) -> None:
    """A prompt that is scored comes, and reads logits, while a stream has asked the session for its token."""
    found: list[list[int]] = []
    for has_head in (True, False):
        engine = Engine(opened("recorded", graphs, has_head=has_head).session, EngineConfig())
        engine.add(request("stream", PROMPTS[0], max_tokens=20, temperature=2.0, seed=3))
        tokens: list[int] = []
        for step in range(25):
            if step == 4:
                engine.add(request("scored", PROMPTS[1], max_tokens=3, temperature=2.0, seed=4, prompt_logprobs=0))
            tokens += [event.token_id for event in engine.step().events if isinstance(event, TokenEvent)]
        assert len(tokens) == 23
        found.append(tokens)
    assert found[0] == found[1]


def test_the_token_that_is_none_is_one_of_the_vocabulary(graphs: dict[str, Path]) -> None:
    """The call behind it reads it before anybody could look: a row of NaN has no token."""
    head = ort.InferenceSession(str(graphs["selection"]), providers=["CPUExecutionProvider"])
    table = SelectionTable(2, V)
    mask = np.full((2, selection_io.mask_bytes(V)), 0xFF, np.uint8)
    logits = np.full((2, V), np.nan, np.float32)
    logits[1] = -np.inf
    chosen = dict(
        zip(
            selection_io.OUTPUTS,
            head.run(list(selection_io.OUTPUTS), {"logits": logits, "mask": mask, **table.columns}),
            strict=True,
        )
    )
    assert not (chosen["settled"] & selection_io.TOKEN_SETTLED).any()
    assert all(0 <= token < V for token in chosen["token"])
