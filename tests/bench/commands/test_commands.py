"""The commands over real sockets: figures, files, and one clear line for everything that can go wrong."""

from __future__ import annotations

import asyncio
import resource
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner, Result

from bench.commands.bench import bench_group
from bench.errors import BenchError
from bench.proof.mock_server import MockBehaviour, MockServer
from bench.report.exports import write_whole


@contextmanager
def serving(behaviour: MockBehaviour) -> Iterator[tuple[str, MockServer]]:
    """A mock endpoint on a real socket, in a thread with a loop of its own."""
    server = MockServer(behaviour)
    ready = threading.Event()
    state: dict[str, object] = {}

    async def main() -> None:
        listener = await asyncio.get_running_loop().create_server(server.protocol, "127.0.0.1", 0)
        state["port"] = listener.sockets[0].getsockname()[1]
        state["loop"], state["stop"] = asyncio.get_running_loop(), asyncio.Event()
        ready.set()
        async with listener:
            await state["stop"].wait()  # type: ignore[attr-defined]

    thread = threading.Thread(target=lambda: asyncio.run(main()))
    thread.start()
    assert ready.wait(10)
    try:
        yield f"http://127.0.0.1:{state['port']}", server
    finally:
        state["loop"].call_soon_threadsafe(state["stop"].set)  # type: ignore[attr-defined]
        thread.join()


def bench(*words: str) -> Result:
    return CliRunner().invoke(bench_group, list(words), env={"COLUMNS": "200"})


FAST = MockBehaviour(ttft_ms=4, itl_ms=1)


def test_http_writes_every_kind_of_result(tmp_path: Path) -> None:
    out = tmp_path / "results"
    with serving(FAST) as (url, server):
        result = bench("http", url, "-c", "1,3", "--request-count", "6", "--osl", "5", "--warmup-request-count", "2",
                       "--goodput", "ttft:1000", "--repeats", "2", "-o", str(out), "--explain")  # fmt: skip

    assert result.exit_code == 0, result.output
    assert server.num_requests == 1 + 2 * 2 * (6 + 2)  # the test request, then repeats x loads x (measured + warm-up)
    assert "concurrency 3" in result.output
    assert "tpot [ms] = (E2EL - TTFT) / (n - 1)" in result.output
    assert {path.name for path in out.iterdir()} == {
        "report.json", "report.html", "report.csv", "report.md", "requests.jsonl"
    }  # fmt: skip
    saved = msgspec.json.decode((out / "report.json").read_bytes())
    assert (saved["schema"], saved["schema_version"]) == ("powertrain-bench-http", 1)
    assert [point["load"] for point in saved["points"]] == ["concurrency 1", "concurrency 3"]
    measurement = saved["points"][1]["runs"][1]["measurement"]
    assert measurement["outcomes"] == {"ok": 6, "failed": 0, "cancelled": 0, "unfinished": 0}
    assert measurement["distributions"]["ttft"]["min"] >= 4.0
    assert measurement["totals"]["goodput_share"] == 100.0
    assert len((out / "requests.jsonl").read_bytes().splitlines()) == 2 * 2 * 8
    server = saved["points"][1]["runs"][1]["server"]
    assert (server["path"], server["problem"]) == ("/v1/metrics", None)
    assert server["values"]["waiting"] == [0.0] * len(server["at_ms"])
    assert (saved["points"][0]["isl"], saved["points"][0]["osl"]) == ("128", "5")
    assert str(tmp_path) not in (out / "report.json").read_text()

    for name in ("report.json", "report.html", "report.csv", "report.md", "requests.jsonl"):
        assert f"wrote {out / name}" in result.stderr

    page = (out / "report.html").read_text()
    (out / "report.html").unlink()
    told = bench("report", str(out / "report.json"))
    assert told.stderr == f"wrote {out / 'report.html'}\n"
    assert (out / "report.html").read_text() == page
    assert bench("report", str(out / "report.json"), "-o", str(tmp_path / "page")).exit_code == 0
    assert (tmp_path / "page" / "report.html").read_text() == page


def test_json_and_markdown_go_to_stdout() -> None:
    with serving(replace(FAST, metrics=False)) as (url, _):
        words = ("--request-count", "2", "--shared-prefix-tokens", "4", "--json", "--no-server-metrics")
        as_json = bench("http", url, *words)
        as_markdown = bench("http", url, "--request-count", "2", "--osl", "3", "--markdown")
    (point,) = msgspec.json.decode(as_json.stdout.encode())["points"]
    assert (point["model"], point["runs"][0]["server"]) == ("mock", None)
    assert (point["isl"], point["osl"]) == ("128 + 4 shared", "64")
    assert "server metrics" not in as_json.stderr
    told = f"no (or not all) server metrics of {url}: GET /v1/metrics was answered with HTTP 404"
    assert as_markdown.stderr.count(told) == 1
    assert as_markdown.stdout.startswith("**")
    assert "| Time to first token [ms] |" in as_markdown.stdout


def test_compare_interleaves_and_prints_ratios() -> None:
    with serving(FAST) as (fast, _), serving(MockBehaviour(ttft_ms=40, itl_ms=1)) as (slow, _):
        result = bench(
            "compare", f"fast={fast}", f"slow={slow}", "--request-count", "4", "--osl", "3", "--repeats", "2"
        )
        as_markdown = bench(
            "compare", f"fast={fast}", f"slow={slow}", "--request-count", "2", "--osl", "2", "--markdown"
        )
    assert result.exit_code == 0, result.output
    assert "slow / fast" in result.output
    assert "p99*: 8 gaps, needs >= 100" in " ".join(result.output.split())
    assert "| slow / fast · concurrency 1 |" in as_markdown.stdout


def test_partial_results_are_kept_and_marked(tmp_path: Path) -> None:
    with serving(MockBehaviour(ttft_ms=1, itl_ms=1, cut_after_chunks=2, fault_every=3)) as (url, _):
        result = bench("http", url, "--request-count", "50", "--osl", "5", "--max-errors", "2", "-o", str(tmp_path))
    assert result.exit_code == 0, result.output
    assert "2 failed with cut: the endpoint closed the connection after 2 chunks" in result.output
    assert "Partial results: stopped after 2 failed requests (--max-errors)." in result.output
    assert "stopped after 2 failed" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize(
    ("behaviour", "message"),
    [
        (MockBehaviour(stream=False, ttft_ms=1), "ignored stream=true"),
        (MockBehaviour(cut_after_chunks=0, ttft_ms=1), "failed one test request: the endpoint closed the connection"),
        (MockBehaviour(error_after_chunks=1, ttft_ms=1), "reported an error mid-stream: engine died"),
    ],
)
def test_unusable_endpoints_are_refused_before_the_load(behaviour: MockBehaviour, message: str) -> None:
    with serving(behaviour) as (url, _):
        result = bench("http", url, "--request-count", "2")
    assert result.exit_code == 1
    assert message in result.output
    assert "Traceback" not in result.output


def test_endpoint_without_usage_is_measured_and_marked() -> None:
    with serving(MockBehaviour(usage=False, ttft_ms=1, itl_ms=1)) as (url, _):
        result = bench("http", url, "--request-count", "2", "--osl", "4")
    assert result.exit_code == 0, result.output
    assert "2 of 2 answers carried no usage" in result.output


def test_unknown_model_names_those_that_are_served() -> None:
    with serving(FAST) as (url, _):
        result = bench("http", url, "-m", "gpt-9")
    assert result.exit_code == 1
    assert "does not serve 'gpt-9'; it serves mock" in result.output


def test_an_output_that_cannot_be_written_is_refused_before_the_load(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with serving(FAST) as (url, server):
        for words in (["http", url, "--request-count", "2"], ["engine", "--synthetic"]):
            result = bench(*words, "-o", str(tmp_path / "file" / "results"))
            assert result.exit_code == 1
            assert "results/.powertrain-probe: Not a directory; choose another folder" in "".join(
                result.stderr.split("\n")
            )
    assert server.num_requests == 0


def test_a_result_that_does_not_fit_leaves_no_half_file(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(BenchError, match=r"report\.json: File too large; raise the limit"):
            write_whole(tmp_path / "report.json", bytes(2000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []


def test_nobody_listens() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    result = bench("http", f"http://127.0.0.1:{port}")
    assert result.exit_code == 1
    assert "cannot connect to" in result.output
    assert "is the server running" in result.output


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["-c", "2", "--request-rate", "3"], "--concurrency and --request-rate exclude each other"),
        (["-c", "0"], "--concurrency '0' is not a positive number"),
        (["-c", "1.5"], "--concurrency 1.5 is not a whole number"),
        (["-c", "2", "--max-concurrency", "4"], "--max-concurrency bounds an open loop"),
        (["--goodput", "ttft:1", "--slo", "x"], "--goodput and --slo exclude each other"),
        (["--slo", "x"], "no preset 'x'"),
        (["--burstiness", "2"], "--burstiness needs --arrival-pattern gamma"),
        (["--continuous-usage", "--no-usage"], "--continuous-usage needs --usage"),
        (["--isl", "x"], "length 'x' is not"),
        (["--extra-body", "[1]"], "--extra-body is not a JSON object"),
        (["--percentile-metrics", "speed"], "unknown metric or statistic speed"),
        (["--plots"], "--plots needs --output"),
        (["-H", "nonsense"], "header 'nonsense' is not 'Name: value'"),
        (["-m", "a", "-m", "b"], "2 models for 1 endpoints"),
        (["--request-cancellation-delay", "1"], "needs --request-cancellation-rate"),
        (["--trace", "/none.jsonl"], "cannot read none.jsonl"),
    ],
)
def test_contradictory_flags_are_refused(flags: list[str], message: str) -> None:
    result = bench("http", "http://127.0.0.1:9", *flags)
    assert result.exit_code == 1
    assert message in " ".join(result.output.replace("│", " ").split())


def test_prove_prints_the_published_tables() -> None:
    result = bench("prove")
    assert result.exit_code == 0
    assert "13,348" in result.output
    assert "13,412" in result.output


def test_every_word_has_help() -> None:
    listing = bench("--help")
    for word in ("http", "compare", "engine", "report", "prove", "mock"):
        assert word in listing.output
        assert bench(word, "--help").exit_code == 0
