"""The in-process measurements: equal terms for every runtime, and what their numbers become."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from numpy.typing import NDArray

from bench.errors import BenchError
from bench.peers import genai_probe, own_probe
from bench.peers.in_process import Probe, in_process_table, own_command, peer_command, read_probe
from bench.peers.own_probe import measure_request
from runtime.engine.config import EngineConfig
from runtime.engine.engine import Engine
from tests.fakes import ScriptedSession, counting


class Params:
    def __init__(self, model: object) -> None:
        assert model == "model"
        self.options: dict[str, object] = {}

    def set_search_options(self, **options: object) -> None:
        self.options = options


class Generator:
    """Gives tokens up to ``max_length`` like the library's, or ends before it."""

    early = 0
    options: dict[str, object]

    def __init__(self, model: object, params: Params) -> None:
        assert model == "model"
        Generator.options = params.options
        self.left = int(str(params.options["max_length"])) - self.early

    def append_tokens(self, ids: NDArray[np.int32]) -> None:
        self.left -= len(ids)

    def is_done(self) -> bool:
        return self.left == 0

    def generate_next_token(self) -> None:
        self.left -= 1


@pytest.fixture
def library() -> ModuleType:
    module = ModuleType("onnxruntime_genai")
    module.__dict__.update(GeneratorParams=Params, Generator=Generator)
    return module


def test_genai_probe_counts_the_first_token_apart(library: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    moments_ms = iter([100, 150, 157, 161])  # asked, then three tokens
    monkeypatch.setattr(time, "perf_counter_ns", lambda: next(moments_ms) * 1_000_000)

    assert genai_probe.measure_request(library, "model", np.zeros(130, np.int32), 3) == (50.0, 5.5)
    assert Generator.options == {"max_length": 133, "min_length": 133, "do_sample": False}


def test_genai_probe_refuses_a_short_answer(library: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Generator, "early", 1)
    with pytest.raises(SystemExit, match=r"^expected 64 tokens, got 63$"):
        genai_probe.measure_request(library, "model", np.zeros(130, np.int32), 64)


def test_own_probe_counts_the_first_token_apart() -> None:
    session = ScriptedSession(counting, num_slots=1, max_model_len=256)
    ttft_ms, tpot_ms = measure_request(Engine(session, EngineConfig(prefix_cache=False)), 512, seed=1)

    assert ttft_ms > 0
    assert tpot_ms > 0
    assert session.count("decode") == 63


def test_every_probe_gets_the_same_terms() -> None:
    assert own_command(Path("p"), 2) == [sys.executable, own_probe.__file__, "p", "2", "5"]
    assert peer_command(["py", "probe.py", "m"], 2) == ["py", "probe.py", "m", "2", "5", "130", "64"]


def test_result_is_the_last_line_of_a_probe() -> None:
    line = '{"ttft_ms": [1, 2, 3, 4, 5], "tpot_ms": [0.5, 0.5, 0.5, 0.5, 0.5]}'
    assert read_probe(f"library says hello\n{line}\n", "peer") == Probe([1, 2, 3, 4, 5], [0.5] * 5)
    with pytest.raises(BenchError, match=r"^peer printed no result: nothing$"):
        read_probe("\n", "peer")
    with pytest.raises(BenchError, match=r"^peer printed no result: hello$"):
        read_probe("hello", "peer")
    with pytest.raises(BenchError, match=r"^peer printed 1 and 2 values instead of 5$"):
        read_probe('{"ttft_ms": [1], "tpot_ms": [1, 2]}', "peer")


def test_in_process_ratios_are_paired_by_round() -> None:
    ours = [Probe([10.0, 11.0, 90.0], [5.0] * 3), Probe([20.0] * 3, [10.0] * 3)]
    theirs = [Probe([22.0] * 3, [10.0] * 3), Probe([40.0] * 3, [20.0] * 3)]

    table = in_process_table({"ours": ours, "theirs": theirs})

    assert table.rows[0] == ("ours", "15.50", "1.00 (1.00 to 1.00)", "7.50", "1.00 (1.00 to 1.00)")
    assert table.rows[1] == ("theirs", "31.00", "0.50 (0.50 to 0.50)", "15.00", "0.50 (0.50 to 0.50)")
