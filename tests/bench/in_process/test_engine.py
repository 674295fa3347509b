"""The engine bench over a scripted session: what it calls, counts, refuses and concludes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner

from bench.commands import engine_run
from bench.commands.bench import bench_group
from bench.errors import BenchError
from bench.in_process.bandwidth import read_bandwidth
from bench.in_process.engine_breakdown import measure_breakdown
from bench.in_process.engine_report import (
    SCHEMA,
    SCHEMA_VERSION,
    Breakdown,
    EngineReport,
    SpeedTest,
    breakdown_table,
    judge,
    load_engine_report,
    speed_table,
    verdict_table,
)
from bench.in_process.engine_speed import SpeedPlan, measure_speed, parse_counts
from bench.in_process.made_up_adapters import made_up_adapters
from bench.in_process.synthetic_report import (
    SyntheticReport,
    judge_steps,
    load_synthetic_report,
    steps_table,
    streams_table,
)
from bench.in_process.synthetic_session import SyntheticSession
from runtime.loading.first_that_loads import FirstThatLoads
from runtime.loading.model_loader import ModelOptions
from runtime.package.manifest import Package
from runtime.session.session import decode_logits
from tests.adapting_session import AdaptingSession, named_adapter
from tests.export.tiny_package import write_package
from tests.fakes import Call, ScriptedSession, counting


def plan(**changes: object) -> SpeedPlan:
    values: dict[str, object] = {
        "prefill_tokens": (10,),
        "decode_tokens": 4,
        "depths": (0, 6),
        "batches": (1, 3),
        "repetitions": 2,
        "chunk_tokens": 8,
    }
    return SpeedPlan(**{**values, **changes})  # type: ignore[arg-type]


def test_tests_are_named_and_repeated_as_in_llama_bench() -> None:
    session = ScriptedSession(counting)
    seen: list[str] = []

    tests = measure_speed(session, plan(), 1000, 1e9, seen.append)

    names = ["pp10", "tg4 b1", "tg4 b3", "pp10@d6", "tg4 b1@d6", "tg4 b3@d6"]
    assert [test.name for test in tests] == names
    assert seen == names * 3  # a warm-up round and two that count, round-robin
    assert all(len(test.samples) == 2 and min(test.samples) > 0 for test in tests)
    assert [test.bandwidth_share is not None for test in tests] == [False, True, False, False, True, False]


def test_prefill_goes_in_chunks_on_top_of_its_depth_and_asks_for_one_row_of_logits() -> None:
    session = ScriptedSession(counting)
    measure_speed(session, plan(decode_tokens=0, depths=(6,), repetitions=2), 1, 1.0, lambda _: None)

    first_round = [(call.kind, len(call.tokens), call.start) for call in session.calls[:3]]
    assert first_round == [("prefill", 6, 0), ("prefill", 8, 6), ("prefill", 2, 14)]
    assert len(session.calls) == 3 * 3


def test_adapters_are_dealt_to_the_rows_of_tests_of_their_own() -> None:
    session, seen = AdaptingSession(counting), []
    adapters = [named_adapter("one"), named_adapter("two")]

    def note(name: str) -> None:
        if session.calls and session.calls[-1].kind == "decode":
            seen.append([adapter.name if adapter else "" for adapter in session.adapters[:3]])
        session.calls.clear()

    chosen = plan(prefill_tokens=(), depths=(0,), adapters=(1, 2))
    tests = measure_speed(session, chosen, 1000, 1e9, note, adapters=adapters)
    assert [test.name for test in tests] == ["tg4 b1", "tg4 b3", "tg4 b1 a1", "tg4 b3 a1", "tg4 b3 a2"]
    assert seen[5:9] == [["", "two", "one"], ["", "", ""], ["one", "", ""], ["one", "one", "one"]]
    with pytest.raises(BenchError, match="takes no adapters"):
        measure_speed(ScriptedSession(counting), chosen, 1000, 1e9, lambda _: None, adapters=adapters)


def test_a_package_without_room_is_measured_with_no_adapters(default_package: Package) -> None:
    assert made_up_adapters(default_package, 0) == []
    with pytest.raises(BenchError, match="has no room for adapters; export it with --lora-rank"):
        made_up_adapters(default_package, 2)


def test_decode_fills_every_slot_and_steps_from_its_depth() -> None:
    session = ScriptedSession(counting)
    measure_speed(session, plan(prefill_tokens=(), depths=(6,), batches=(2,), repetitions=2), 1, 1.0, lambda _: None)

    calls: list[Call] = session.calls[:6]
    assert [(call.kind, call.slots) for call in calls] == [
        ("prefill", (0,)),
        ("prefill", (1,)),
        *[("decode", (0, 1))] * 4,
    ]
    assert [len(rows) for rows in session.rows[:2]] == [10, 10]


def test_share_of_bandwidth_by_hand() -> None:
    session = ScriptedSession(counting)  # one byte of cache per token
    (test,) = measure_speed(session, plan(prefill_tokens=(), batches=(1,), depths=(6,)), 92, 1e6, lambda _: None)
    # 92 bytes of weights and on average 6 + 2 of cache: 100 bytes per step.
    assert test.bandwidth_share == pytest.approx(100 / (test.step_ms / 1e3) / 1e6)


def test_what_does_not_fit_is_refused() -> None:
    session = ScriptedSession(counting, num_slots=2, max_model_len=32)
    for bad, message in (
        (plan(prefill_tokens=(33,)), "pp33 needs 33 tokens, a slot holds 32"),
        (plan(depths=(30,)), "needs 40 tokens"),
        (plan(batches=(3,)), "tg4 b3 needs 3 slots, the session has 2"),
    ):
        with pytest.raises(BenchError, match=message):
            measure_speed(session, bad, 1, 1.0, lambda _: None)
    with pytest.raises(BenchError, match="does not fit 2 slots of 32 tokens"):
        measure_breakdown(session, 1, "greedy", 10)
    for text in ("", "0", "a", "1,,2"):
        with pytest.raises(BenchError, match="--batch"):
            parse_counts(text, "--batch")
    assert parse_counts("0,512", "--depth", lowest=0) == (0, 512)


@pytest.mark.parametrize("sampling", ["greedy", "top-p"])
def test_breakdown_takes_only_full_decode_steps_and_its_parts_add_up(sampling: str) -> None:
    session = ScriptedSession(counting, num_slots=3)
    found = measure_breakdown(session, 3, sampling, 10)

    assert (found.batch, found.sampling, found.num_steps) == (3, sampling, 10)
    assert list(found.parts_us) == ["plan", "copy", "bind", "run", "sample", "commit", "deliver"]
    assert min(found.parts_us.values()) >= 0
    assert 0 < found.overhead_us <= found.total_us
    full = [call for call in session.calls if call.kind == "decode" and len(call.slots) == 3]
    assert len(full) >= 13


def engine_report(samples: dict[str, list[float]], bandwidth: float = 2e10) -> EngineReport:
    speeds = [SpeedTest(name, 1, 0, 4, values, 7.2, 0.76) for name, values in samples.items()]
    row = Breakdown(1, "greedy", 60, {"plan": 20.0, "run": 7000.0}, 250.0, 7250.0)
    return EngineReport(
        SCHEMA, SCHEMA_VERSION, "m", "0" * 64, 2, 2**27, 46080, 2**29, 0.3, bandwidth, speeds, [row], {}
    )


def test_verdicts_need_the_whole_interval_beyond_the_threshold() -> None:
    old = engine_report(
        {"tg": [100.0] * 9, "pp": [500.0] * 9, "wide": list(np.linspace(60, 140, 9)), "gone": [1.0] * 9}
    )
    new = engine_report({"tg": [90.0] * 9, "pp": [540.0] * 9, "wide": list(np.linspace(55, 130, 9)), "more": [1.0] * 9})

    verdicts = judge(new, old, 5.0)

    assert [(v.name, v.word) for v in verdicts] == [("tg", "slower"), ("pp", "faster"), ("wide", "same")]
    assert verdicts[0].ratio.centre == pytest.approx(0.9)
    assert [v.word for v in judge(new, old, 20.0)] == ["same", "same", "same"]
    assert verdict_table(verdicts, new, old).rows[0] == ("tg", "0.900", "0.900 to 0.900", "slower")
    with pytest.raises(BenchError, match="holds none of these tests"):
        judge(engine_report({"other": [1.0, 1.0]}), old, 5.0)


def test_tables_of_a_report() -> None:
    report = engine_report({"tg64 b1": [130.0, 140.0, 150.0]})
    assert speed_table(report).rows == (("tg64 b1", "140.0", "135.0 to 145.0", "7.20", "76 %"),)
    assert breakdown_table(report).columns == ("step", "plan", "run", "overhead", "total")
    assert breakdown_table(report).rows == (("b1 greedy", "0.020", "7.000", "0.250", "7.250"),)


def test_files_that_are_no_baseline(tmp_path: Path) -> None:
    path = tmp_path / "base.json"
    with pytest.raises(BenchError, match=r"cannot read base\.json"):
        load_engine_report(path)
    with pytest.raises(BenchError, match="a folder; name the file in it"):
        load_engine_report(tmp_path)
    path.write_bytes(b"{}")
    with pytest.raises(BenchError, match="not a result of 'powertrain bench engine'"):
        load_engine_report(path)
    path.write_bytes(msgspec.json.encode(msgspec.structs.replace(engine_report({}), schema_version=9)))
    with pytest.raises(BenchError, match="measure the baseline again"):
        load_engine_report(path)


def test_bandwidth_is_a_plausible_number() -> None:
    assert 1e8 < read_bandwidth(1) < 1e13


@pytest.mark.model
def test_command_on_the_default_package(default_package: Package, tmp_path: Path) -> None:
    first = tmp_path / "first" / "engine.json"
    words = [
        "engine",
        str(default_package.root),
        "-p",
        "16",
        "-n",
        "4",
        "-b",
        "1",
        "-r",
        "2",
        "--breakdown-steps",
        "5",
        "--schema",
    ]
    result = CliRunner().invoke(bench_group, [*words, "-o", str(first.parent), "--markdown"])
    assert result.exit_code == 0, result.output
    assert "| pp16 |" in result.stdout
    assert "| b1 top-p |" in result.stdout
    assert "| b1 top-p, schema |" in result.stdout
    assert "| with / without |" in result.stdout

    saved = load_engine_report(first)
    assert saved.weight_bytes > 100e6
    assert [(cost.batch, cost.sampling, len(cost.ratios)) for cost in saved.schema_costs] == [
        (1, "greedy", 2),
        (1, "top-p", 2),
    ]
    # Against itself made ten times faster, every test is slower, and a pipeline must hear of it.
    faster = [msgspec.structs.replace(t, samples=[10 * s for s in t.samples]) for t in saved.speeds]
    first.write_bytes(msgspec.json.encode(msgspec.structs.replace(saved, speeds=faster)))
    again = CliRunner().invoke(bench_group, [*words, "--no-breakdown", "--baseline", str(first)])
    assert again.exit_code == 3, again.output
    assert "slower" in again.output


def test_the_synthetic_bench_writes_tells_and_compares(tmp_path: Path) -> None:
    words = ["engine", "--synthetic", "--vocab", "300", "-b", "1,2", "--breakdown-steps", "5", "-o", str(tmp_path)]
    result = CliRunner().invoke(bench_group, [*words, "--json"])
    assert result.exit_code == 0, result.output
    path = tmp_path / "engine-synthetic.json"
    saved = load_synthetic_report(path)
    assert msgspec.json.decode(result.stdout, type=SyntheticReport) == saved
    kinds = ["greedy", "top-p", "penalties", "logprobs"]
    kinds += [f"{kind} on device" for kind in ("greedy", "top-p", "logprobs")]
    assert [step.name for step in saved.steps] == [f"300 b{batch} {kind}" for batch in (1, 2) for kind in kinds]
    assert {len(step.samples_us) for step in saved.steps} == {5}
    assert {*saved.steps[0].parts_us} == {"plan", "copy", "bind", "sample", "commit"}
    streams = [(speed.streams, speed.sampling, speed.num_tokens) for speed in saved.streams]
    shown = ("greedy", "greedy on device", "top-p", "top-p on device")
    assert streams == [(64, kind, 64 * 100) for kind in shown]

    # Against itself made a hundred times faster, every step is slower, and a pipeline must hear of it.
    faster = [msgspec.structs.replace(s, samples_us=[us / 100 for us in s.samples_us]) for s in saved.steps]
    table, is_slower = judge_steps(saved, msgspec.structs.replace(saved, steps=faster), 5.0)
    assert is_slower
    assert [row[1] for row in table.rows] == ["0.010"] * 14
    assert not judge_steps(saved, saved, 5.0)[1]
    with pytest.raises(BenchError, match="holds none of these steps"):
        judge_steps(saved, msgspec.structs.replace(saved, steps=[]), 5.0)
    assert steps_table(saved).columns[:3] == ("V, batch, sampling", "plan", "copy")
    assert streams_table(saved).rows[0][0] == "300 x64 greedy"


def test_a_synthetic_report_is_told_from_others(tmp_path: Path) -> None:
    path = tmp_path / "engine-synthetic.json"
    with pytest.raises(BenchError, match=r"cannot read engine-synthetic\.json"):
        load_synthetic_report(path)
    path.write_bytes(b"{}")
    with pytest.raises(BenchError, match="not a result of 'powertrain bench engine --synthetic'"):
        load_synthetic_report(path)
    report = SyntheticReport("powertrain-bench-engine-synthetic", 9, [], [], {})
    path.write_bytes(msgspec.json.encode(report))
    with pytest.raises(BenchError, match="measure the baseline again"):
        load_synthetic_report(path)


@pytest.mark.model
def test_a_model_or_synthetic_but_not_both(default_package: Package) -> None:
    for words in ([], [str(default_package.root), "--synthetic"]):
        result = CliRunner().invoke(bench_group, ["engine", *words])
        assert result.exit_code == 2
        assert "name a MODEL to measure, or give --synthetic" in " ".join(result.output.split())


def test_a_backend_that_there_is_not_is_refused(default_package: Package) -> None:
    result = CliRunner().invoke(bench_group, ["engine", str(default_package.root), "--backend", "abacus"])
    assert result.exit_code == 1
    assert "backend 'abacus' is unknown; choose one of auto, cpu" in " ".join(result.output.split())


def test_the_thread_is_asked_of_the_loader_and_told_of_the_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package, asked = write_package(tmp_path / "tiny", with_trt=False), list[ModelOptions]()

    def note(_package: Package, options: ModelOptions, _choices: Any) -> FirstThatLoads:
        asked.append(options)
        raise BenchError("enough")

    monkeypatch.setattr(engine_run, "FirstThatLoads", note)
    for words in ([], ["--decode-thread"]):
        CliRunner().invoke(bench_group, ["engine", str(package.root), *words])
    assert [options.decode_thread for options in asked] == [False, True]
    info = ScriptedSession(counting).info
    assert engine_run.how_it_ran(info, decode_thread=True) == {"backend": "scripted", "decode_thread": "on"}
    assert engine_run.how_it_ran(replace(info, backend="cpu"), decode_thread=False) == {}


def test_a_synthetic_session_lends_the_same_rows_anew_only_where_it_is_told_to() -> None:
    ticks = iter(range(0, 1000, 10))
    restoring = SyntheticSession(3, 40, 64, ticks.__next__, restores=True)
    ids = np.zeros(3, np.int64)
    first = decode_logits(restoring, 0, ids, ids).copy()
    decode_logits(restoring, 0, ids, ids)[:] = 0.0
    assert restoring.run_ns == 20
    assert decode_logits(restoring, 0, ids, ids)[0].tolist() == first[2].tolist()
    lending = SyntheticSession(3, 40, 64, ticks.__next__, restores=False)
    assert np.shares_memory(decode_logits(lending, 0, ids, ids), decode_logits(lending, 0, ids, ids))
    assert decode_logits(lending, 0, ids, ids).tolist() == first.tolist()
    assert lending.run_ns == 0
