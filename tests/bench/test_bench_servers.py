"""Servers as processes, and the recipes of the peers' ones."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from bench.cli import bench_group
from bench.errors import BenchError
from bench.peers.in_process import Probe, in_process_table
from bench.peers.llama_cpp import SDIST, LlamaCpp, build, run
from bench.peers.own_probe import measure_request
from bench.server_process import free_port, running_server
from runtime.engine import Engine
from runtime.engine_config import EngineConfig
from tests.fakes import ScriptedSession, counting


def test_server_runs_for_the_length_of_the_block() -> None:
    port = free_port()
    command = [sys.executable, "-m", "powertrain", "bench", "mock", "--port", str(port), "--ttft-ms", "1"]
    with running_server(command, port, "/models") as url:
        result = CliRunner().invoke(bench_group, ["http", url, "--request-count", "2", "--osl", "2", "--markdown"])
        assert result.exit_code == 0, result.output
    result = CliRunner().invoke(bench_group, ["http", url, "--request-count", "2"])
    assert "Connect" in result.output or "connect" in result.output


def test_server_that_ends_at_once_is_reported_with_its_last_words() -> None:
    command = [sys.executable, "-c", "import sys; print('first'); sys.exit('no model there')"]
    with (
        pytest.raises(BenchError, match=r"ended with code 1: .*no model there"),
        running_server(command, free_port(), "/models"),
    ):
        pass


def test_llama_cpp_is_built_once_and_served_with_equal_means(tmp_path: Path) -> None:
    binaries = tmp_path / SDIST / "build" / "bin"
    binaries.mkdir(parents=True)
    for name in ("llama-server", "llama-quantize", "llama-bench"):
        (binaries / name).touch()

    llama = build(tmp_path, lambda _: pytest.fail("nothing is to be done"))

    assert llama == LlamaCpp(binaries)
    words = llama.server(Path("m.gguf"), "peer", 81, slots=16, slot_tokens=512, threads=2)
    assert " ".join(words[1:]) == (
        "-m m.gguf -np 16 -c 8192 -t 2 -tb 2 --host 127.0.0.1 --port 81 --alias peer --no-webui"
    )
    (tmp_path / "m.Q8_0.gguf").touch()
    assert llama.quantize(Path("m.gguf"), "Q8_0", tmp_path) == tmp_path / "m.Q8_0.gguf"


def test_foreign_source_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / f"{SDIST}.tar.gz").write_bytes(b"something else")
    with pytest.raises(BenchError, match="expected 832db069"):
        build(tmp_path, lambda _: None)


def test_failing_programs_are_reported_in_one_line() -> None:
    with pytest.raises(BenchError, match="it failed: a / b"):
        run([sys.executable, "-c", "import sys; sys.exit('a\\nb')"], "it failed")
    with pytest.raises(BenchError, match="it failed: no-such-program is not installed"):
        run(["no-such-program"], "it failed")
    assert run([sys.executable, "-c", "print(7)"], "it failed") == "7\n"


def test_peers_need_the_checkpoint(tmp_path: Path) -> None:
    result = CliRunner().invoke(bench_group, ["peers", str(tmp_path), "--gguf", str(tmp_path / "none.gguf")])
    assert result.exit_code == 1
    assert "no checkpoint at" in result.output


def test_own_probe_counts_the_first_token_apart() -> None:
    session = ScriptedSession(counting, num_slots=1, max_model_len=256)
    ttft_ms, tpot_ms = measure_request(Engine(session, EngineConfig(prefix_cache=False)), 512, seed=1)

    assert ttft_ms > 0
    assert tpot_ms > 0
    assert session.count("decode") == 63


def test_in_process_ratios_are_paired_by_round() -> None:
    ours = [Probe([10.0, 11.0, 90.0], [5.0] * 3), Probe([20.0] * 3, [10.0] * 3)]
    theirs = [Probe([22.0] * 3, [10.0] * 3), Probe([40.0] * 3, [20.0] * 3)]

    table = in_process_table({"ours": ours, "theirs": theirs})

    assert table.rows[0] == ("ours", "15.50", "1.00 (1.00 to 1.00)", "7.50", "1.00 (1.00 to 1.00)")
    assert table.rows[1] == ("theirs", "31.00", "0.50 (0.50 to 0.50)", "15.00", "0.50 (0.50 to 0.50)")
