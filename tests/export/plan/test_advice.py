"""What a message advises is run as it stands there, and helps: another plan, or another export."""

from __future__ import annotations

import re
import shlex
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import msgspec
import pytest
from click.testing import CliRunner

from export.commands.engine import engine_command
from export.commands.export import export_command
from export.commands.inspect import inspect_command
from export.plan.builder import BuiltPlan
from export.plan.library import load_library
from export.plan.network import NetworkFacts
from export.plan.progress import OnFraction
from export.plan.settings import PlanSettings, check_settings
from export.plan.store import StoredPlan, ensure_plan
from export.plan.targets import Target
from runtime.errors import BackendError, KVBudgetError, PlanError
from runtime.loading.backend import Backend, BackendChoice
from runtime.loading.gpu_loader import gpu_session_factory, plan_gpu_cache
from runtime.loading.plan_choice import choose_plan
from runtime.package.manifest import load_package
from runtime.package.plan_sidecar import read_sidecar, rebuild_command
from runtime.session.kv_budget import KVWishes
from tests.export.plan.stored import SETTINGS, build, running
from tests.export.tiny_models import write_tiny_folder
from tests.export.tiny_package import write_package
from tests.runtime.loading.machine import ADA

pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is published for Linux on x86-64 only")

WIDE = {"COLUMNS": "300"}


@pytest.fixture(autouse=True)
def quick_builds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plans of nonsense: what is asked for is looked at here, not what a compiler makes of it."""

    def fake(
        _graph: Path, capacity: int, _target: Target, settings: PlanSettings, _show: OnFraction, *, head: Path
    ) -> BuiltPlan:
        assert head.is_file()
        check_settings(settings, capacity)
        data = memoryview(f"a plan of {capacity} rows".encode())
        return BuiltPlan(data, 1000, NetworkFacts(1, 2, 0, (), (2, capacity, 16), "HALF"), 0.1, 1)

    monkeypatch.setattr("export.plan.store.build_plan", fake)


def run_advice(message: str) -> None:
    """Execute each command that a message quotes, as a person would."""
    lines = re.findall(r"'powertrain ([^']+)'", message)
    assert lines, message
    for line in lines:
        word, *arguments = shlex.split(line)
        command = {"engine": engine_command, "export": export_command}[word]
        result = CliRunner().invoke(command, arguments, obj=None)
        assert result.exit_code == 0, result.output


def choice_of(root: Path) -> BackendChoice:
    package = load_package(root)
    return BackendChoice(Backend.TENSORRT_RTX, (), ADA, choose_plan(package, running(), ADA))


def test_a_package_without_the_graph_says_how_to_get_it(tmp_path: Path) -> None:
    root = tmp_path / "plain"
    write_package(root, with_trt=False)
    with pytest.raises(PlanError, match="holds no graph for TensorRT; build it with 'powertrain export MODEL"):
        build(root)


def test_the_form_of_attention_is_part_of_the_wish(root: Path) -> None:
    """Named on the command line, in the sidecar, as a reason to rebuild, and in the line that builds the same again."""
    assert read_sidecar(root, "sm89").sidecar.key.attention == "mask+lengths"
    arguments = [str(root), "--target", "sm89", "--max-slots", "4", "--prefill-tokens", "32", "--attention", "lengths"]
    built = CliRunner().invoke(engine_command, arguments)
    assert built.exit_code == 0, built.output
    assert "attention is lengths, the plan was built with mask+lengths" in " ".join(built.output.split())
    key = read_sidecar(root, "sm89").sidecar.key
    assert key.attention == "lengths"
    assert "attention by lengths, built in" in CliRunner().invoke(inspect_command, [str(root)], env=WIDE).output
    line = rebuild_command(root, "sm89", key)
    run_advice(f"'{line}'")
    assert build(root, settings=replace(SETTINGS, attention="lengths")).reasons == ()
    assert "--attention" not in rebuild_command(root, "sm89", msgspec.structs.replace(key, attention="mask+lengths"))


def test_a_library_without_lengths_builds_masks_and_nothing_twice(root: Path) -> None:
    old = replace(load_library("tensorrt_rtx"), module=ModuleType("tensorrt_rtx"))
    target = Target("sm89", "sm89", old)

    def ensure(settings: PlanSettings) -> StoredPlan:
        return ensure_plan(root, target, settings, lambda _title: nullcontext[OnFraction](lambda _fraction: None))

    assert ensure(SETTINGS).reasons == ("attention is mask, the plan was built with mask+lengths",)
    assert ensure(SETTINGS).reasons == ()
    with pytest.raises(PlanError, match="takes no lengths of attention's keys; build with --attention mask"):
        ensure(replace(SETTINGS, attention="lengths"))


def test_a_plan_without_masks_serves_only_after_the_self_test(root: Path) -> None:
    build(root, settings=replace(SETTINGS, attention="lengths"))
    package, choice = load_package(root), choice_of(root)
    kv = plan_gpu_cache(package, choice, KVWishes(), kv_cache_bytes=2**20)
    with pytest.raises(
        PlanError, match="serves only after the self-test; leave --no-self-test out, or build"
    ) as raised:
        gpu_session_factory(package, choice, kv, self_test=False)()
    run_advice(str(raised.value))
    assert read_sidecar(root, "sm89").sidecar.key.attention == "mask+lengths"


def test_what_is_advised_for_longer_or_more_slots_helps(root: Path) -> None:
    build(root, settings=replace(SETTINGS, max_model_len=40))
    for wishes, problem in (
        (KVWishes(slot_tokens=64), "the plan's slots have 40 tokens, 64 were asked for; build the plan again with"),
        (KVWishes(num_slots=6), "num_slots 6 were asked for, the plan was built for 4; build the plan again with"),
    ):
        with pytest.raises(BackendError, match=problem) as refused:
            plan_gpu_cache(load_package(root), choice_of(root), wishes)
        run_advice(str(refused.value))
        plan_gpu_cache(load_package(root), choice_of(root), wishes)
    key = read_sidecar(root, "sm89").sidecar.key
    assert (key.max_slots, key.max_model_len, key.prefill_tokens) == (6, 64, 32)  # nothing else was lost on the way


def test_what_is_advised_when_slots_do_not_fit_helps(tmp_path: Path) -> None:
    root = tmp_path / "tiny"
    write_package(root, max_model_len=192)
    build(root, settings=replace(SETTINGS, prefill_tokens=100))
    wishes, budget = KVWishes(num_slots=2, budget_is_asked=True), 2 * 100 * 256
    with pytest.raises(KVBudgetError, match="num_slots 1 or a plan with slots of 64 tokens") as refused:
        plan_gpu_cache(load_package(root), choice_of(root), wishes, kv_cache_bytes=budget)
    plan_gpu_cache(load_package(root), choice_of(root), replace(wishes, num_slots=1), kv_cache_bytes=budget)
    run_advice(str(refused.value))
    planned = plan_gpu_cache(load_package(root), choice_of(root), wishes, kv_cache_bytes=budget)
    assert (planned.num_slots, planned.rows) == (2, 64)


def test_a_longer_slot_than_the_package_was_exported_for(tmp_path: Path) -> None:
    """The advice goes through export, of the checkpoint that MODEL stands for, to a plan that holds what was asked."""
    checkpoint = write_tiny_folder(tmp_path / "hf", "llama")
    root, arguments = tmp_path / "models" / "hf", [str(checkpoint), "--no-quality", "--dialect", "ort,trt", "-o"]
    exported = CliRunner().invoke(export_command, [*arguments, str(root), "--max-model-len", "64"])
    assert exported.exit_code == 0, exported.output
    build(root)
    with pytest.raises(BackendError, match="the plan's slots have 64 tokens, 100 were asked for; export") as refused:
        plan_gpu_cache(load_package(root), choice_of(root), KVWishes(slot_tokens=100))
    with pytest.raises(PlanError, match="--max-model-len 100 is more than the 64 tokens") as unbuilt:
        build(root, settings=replace(SETTINGS, max_model_len=100))
    (advice,) = {re.search("export the package again.*", str(error.value))[0] for error in (refused, unbuilt)}  # type: ignore[index]
    run_advice(advice.replace("MODEL --dialect", f"{checkpoint} --no-quality --dialect"))
    build(root)
    planned = plan_gpu_cache(load_package(root), choice_of(root), KVWishes(slot_tokens=100))
    assert (planned.slot_tokens, planned.rows) == (100, 128)
    with pytest.raises(BackendError, match="the model was made for 128 tokens, so ask for 128 at most"):
        plan_gpu_cache(load_package(root), choice_of(root), KVWishes(slot_tokens=129))
