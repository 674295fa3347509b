"""Gates in a build: what they hold back, what is measured for them, and what a report says of it."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import pytest

from bench.commands.engine import engine_command
from bench.commands.evaluate import eval_command
from export.commands.build import BUILT, NOTHING_TO_DO, POOR, exit_status
from export.pipeline import account, engine_test, graph, measuring, measuring_steps
from export.pipeline.account import build_report
from export.pipeline.judge import rehearse
from export.pipeline.report import summary_lines
from export.pipeline.report_files import write_report
from export.pipeline.runner import Outcome, State
from runtime.errors import PlanError
from runtime.loading.backend import Backend, BackendChoice
from runtime.loading.gpu import Gpu, GpuReport
from runtime.package import plan_sidecar
from runtime.package.manifest import Package, load_package
from runtime.session.cpu.ort_session import OrtSession
from runtime.session.selected import Selected, from_logits
from runtime.session.session import Int64Array
from tests.export.pipeline.rehearsing import FULL, Workshop
from tests.export.tiny_package import write_package

pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is published for Linux on x86-64 only")


GATED = FULL + "[[gate]]\n"


def placed(outcomes: list[Outcome]) -> Outcome:
    (found,) = [one for one in outcomes if one.step.kind == "place"]
    return found


def test_a_gate_keeps_a_package_out_of_its_place_and_builds_nothing_again(shop: Workshop) -> None:
    shutil.rmtree(shop.folder / "out")
    text = GATED + 'max_size = "1 KiB"\n'
    (prospect,) = [one for one in rehearse(shop.setup(text).steps, shop.setup(text).judge().verdict)
                   if not one.verdict.is_fresh]  # fmt: skip
    assert prospect.verdict.is_refused
    refused = placed(outcomes := shop.build(text))
    assert (refused.state, shop.started, exit_status(outcomes)) == (State.POOR, [], POOR)
    assert refused.text == prospect.verdict.why
    assert refused.text.endswith(", max_size is 1 KiB")
    assert not (shop.folder / "out").exists()
    outcomes = shop.build(GATED + 'max_size = "1 GiB"\nmax_kl = 1\nunmeasured = "report"\n')
    assert (shop.started, exit_status(outcomes)) == (["place tiny-fp32"], BUILT)
    assert [one.outcome for one in placed(outcomes).findings] == ["not measured", "held"]
    assert summary_lines(outcomes)[1:] == [
        "  place tiny-fp32: mean KL [nats per token] was not measured, max_kl is 1; the file lets that pass"
    ]


def test_a_gate_counts_from_the_report_of_an_earlier_build(shop: Workshop) -> None:
    text = FULL + '[[gate]]\nmax_size = "baseline"\n[[gate]]\ntarget = "sm120"\nmax_size = "0.5 * baseline"\n'
    lost = placed(outcomes := shop.build(text))
    assert "the baseline has no such figure" in lost.text
    report = build_report(outcomes, pipeline="p.toml", status=POOR, seconds=1.0)
    write_report(shop.folder / "old.json", report, None)
    size = sum(path.stat().st_size for path in (shop.folder / "out/tiny-fp32").rglob("*"))
    (package,) = report.packages
    assert 0 < package.measures["size"] < size
    assert [(one.target, one.measures) for one in package.plans] == [
        (target, {"size": (shop.folder / f"out/tiny-fp32/trt/{target}.plan").stat().st_size})
        for target in ("sm120", "sm89")
    ]
    lost = placed(shop.build(text, baseline=shop.folder / "old.json"))
    assert [(one.gate, one.target, one.outcome) for one in lost.findings] == [
        ("max_size", None, "held"),
        ("max_size", "sm120", "broken"),
    ]


EVALUATION = b'{"accuracy": 0.5, "accuracy_error": 0.05, "bits_per_byte": 1.25, "num_questions": 120}'
SPEEDS = (
    b"""{"speeds": [{"name": "pp128", "samples": [100, 300, 200]}, {"name": "tg32 b1", "samples": [40, 60, 50]}]}"""
)


def test_what_a_gate_asks_for_is_measured_once(shop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands are stand-ins: tests/bench has what they measure."""
    asked: list[list[str]] = []

    def run(words: list[str]) -> bytes:
        load_package(Path(words[1 + (words[0] == "bench")]))
        asked.append(words)
        return EVALUATION if words[0] == "eval" else SPEEDS

    monkeypatch.setattr(measuring, "run_command", run)
    without = [step.name for step in shop.setup(FULL).steps]
    for limit, kind in (("max_bits_per_byte", "eval"), ("min_accuracy", "eval"), ("min_tokens_per_s", "bench")):
        more = [step.name for step in shop.setup(f"{GATED}{limit} = 1").steps if step.name not in without]
        assert more == [f"{kind} tiny-fp32"]
    (timed,) = [step for step in shop.setup(f"{GATED}min_tokens_per_s = 1").steps if step.kind == "bench"]
    done = {step.step.name: step.stored for step in shop.build(FULL) if step.stored is not None}
    assert shop.setup(FULL).cost_of(timed, done).memory_bytes is None  # so it runs alone
    text = GATED + "min_accuracy = 0.5\nmax_bits_per_byte = 1.2\nmin_tokens_per_s = 50\n"
    lost = placed(shop.build(text))
    assert sorted(shop.started) == ["bench tiny-fp32", "eval tiny-fp32"]
    assert lost.text == "bits per byte is 1.25, max_bits_per_byte is 1.2"
    shop.build(text.replace("1.2", "1.25").replace("= 50", "= 51"))
    assert shop.started == []
    outcomes = shop.build(text.replace("1.2", "1.25"))
    assert placed(outcomes).state is State.FRESH
    with monkeypatch.context() as patch:
        patch.setattr(account, "measures_of", lambda *_: {("tiny-fp32", None): {"kl": math.nan, "size": 1.0}})
        (package,) = build_report(outcomes, pipeline="p.toml", status=NOTHING_TO_DO, seconds=0.0).packages
    assert package.measures == {"size": 1.0}  # JSON has no word for what is no number, and no baseline would be read
    (package,) = build_report(outcomes, pipeline="p.toml", status=NOTHING_TO_DO, seconds=0.0).packages
    figures = {name: package.measures[name] for name in ("accuracy", "tokens_per_s", "prefill_tokens_per_s")}
    assert figures == {"accuracy": 0.5, "tokens_per_s": 50.0, "prefill_tokens_per_s": 200.0}
    assert sorted(words[0] for words in asked) == ["bench", "eval"]
    names = {
        param
        for command in (eval_command, engine_command)
        for one in command.params
        for param in (*one.opts, *one.secondary_opts)
    }
    assert {word for words in asked for word in words if word.startswith("-")} <= names
    monkeypatch.setattr(measuring_steps, "cpu_words", lambda: "another machine")
    shop.build(text.replace("1.2", "1.25"))
    assert shop.started == ["bench tiny-fp32"]


@pytest.mark.parametrize("said", [b"", b'{"speeds": []}', SPEEDS.replace(b"tg32", b"pp32"), b'{"accuracy": "x"}'])
def test_a_command_that_says_something_else_fails_its_step(
    said: bytes, shop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measuring, "run_command", lambda _words: said)
    outcomes = shop.build("benchmark = true\nevaluate = true\n" + FULL)
    assert {one.step.kind: one.state for one in outcomes if one.state is not State.FRESH} == {
        "eval": State.FAILED,
        "bench": State.FAILED,
        "place": State.SKIPPED,
    }


def test_a_plan_is_tested_and_measured_where_its_gpu_is(shop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    """No GPU is here: what runs on one is a stand-in, which looks at what it is given."""
    gpu = Gpu(0, "GPU-0", "L4", "8.9", 2**34, 2**34, "580")
    setup = shop.setup("benchmark = true\n" + FULL)
    monkeypatch.setattr(graph, "find_gpus", lambda **_: GpuReport((gpu,)))
    steps = [one.name for one in shop.setup("benchmark = true\n" + FULL).steps]
    assert [name for name in steps if name not in {one.name for one in setup.steps}] == [
        "self-test tiny-fp32 sm89", "bench tiny-fp32 sm89"]  # fmt: skip
    seen: list[object] = []

    def tested(package: Package, backend: str, target: str) -> dict[str, str]:
        plan = plan_sidecar.read_sidecar(package.root, "sm89")
        plan_sidecar.check_plan_bytes(plan)
        seen.append((backend, plan_sidecar.plan_targets(package.root)))
        return {"kl": "0.25", "max_kl": "0.5", "target": target}

    monkeypatch.setattr(engine_test, "engine_test", tested)

    def run(words: list[str]) -> bytes:
        seen.append(words[4:7])
        return SPEEDS

    monkeypatch.setattr(measuring, "run_command", run)
    text = "self_test = false\n" + FULL + '[[gate]]\ntarget = "sm89"\nmax_kl = 0.2\nmin_tokens_per_s = 10\n'
    lost = placed(shop.build(text))
    assert lost.text == "mean KL [nats per token] on sm89 is 0.25, max_kl is 0.2"
    assert [(one.measured, one.outcome) for one in lost.findings] == [(0.25, "broken"), (50.0, "held")]
    assert sorted(shop.started) == ["bench tiny-fp32 sm89", "self-test tiny-fp32 sm89"]
    assert ("tensorrt-rtx", ["sm89"]) in seen
    assert ["--no-breakdown", "--backend", "tensorrt-rtx"] in seen
    shop.build(text.replace("max_slots = 4", "max_slots = 8", 1))
    assert sorted(shop.started) == ["bench tiny-fp32 sm89", "plan tiny-fp32 sm89", "self-test tiny-fp32 sm89"]
    assert not list((shop.folder / "cache").rglob("package"))  # the copy with the plan in it is gone


def test_a_plan_that_computes_something_else_fails_its_test(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = write_package(tmp_path / "tiny", "fp32")
    choices = lambda *_: iter([BackendChoice(Backend.CPU, ("stands in for the GPU",))])  # noqa: E731
    facts = engine_test.engine_test(package, "tensorrt", "sm89", choices)
    assert facts["target"] == "sm89"
    assert abs(float(facts["kl"])) < abs(float(facts["max_kl"])) < 1e-6
    ended: list[OrtSession] = []
    close, real = OrtSession.close, OrtSession.decode_tokens

    def closed(session: OrtSession) -> None:
        ended.append(session)
        close(session)

    def doubled(session: OrtSession, slots: Int64Array, *rest: Any) -> Selected:
        return from_logits(real(session, slots, *rest).logits(range(len(slots))) * 2)

    monkeypatch.setattr(OrtSession, "close", closed)
    monkeypatch.setattr(OrtSession, "decode_tokens", doubled)
    with pytest.raises(PlanError, match="does not compute this package's model"):
        engine_test.engine_test(package, "tensorrt", "sm89", choices)
    assert len(ended) == 1
