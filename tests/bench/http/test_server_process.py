"""Servers as processes."""

from __future__ import annotations

import sys

import pytest
from click.testing import CliRunner

from bench.commands.bench import bench_group
from bench.errors import BenchError
from bench.http.server_process import free_port, running_server


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
