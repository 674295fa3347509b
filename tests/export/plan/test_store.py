"""Plans in a package: built once, rebuilt for a reason that is named, refused when anything about them changed."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Callable
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
from export.plan.builder import _build_head as builder_head
from export.plan.hardware import check_hardware
from export.plan.library import load_library
from export.plan.network import NetworkFacts
from export.plan.progress import OnFraction
from export.plan.settings import PlanSettings, check_settings
from export.plan.store import StoredPlan, ensure_plan
from export.plan.targets import Target
from runtime.errors import BackendError, KVBudgetError, PackageError, PlanError
from runtime.loading.backend import Backend, BackendChoice
from runtime.loading.gpu import Gpu
from runtime.loading.gpu_loader import gpu_session_factory, plan_gpu_cache
from runtime.loading.plan_choice import RunningLibrary, choose_plan, judge_plans
from runtime.package.manifest import load_package
from runtime.package.plan_sidecar import PlanSidecar, read_sidecar, rebuild_command, write_sidecar
from runtime.session.kv_budget import KVWishes
from tests.export.tiny_models import write_tiny_folder
from tests.export.tiny_package import write_package

pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is published for Linux on x86-64 only")

SETTINGS = PlanSettings(max_slots=4, prefill_tokens=32)
WIDE = {"COLUMNS": "300"}
ADA = Gpu(0, "GPU-00000", "RTX 4090", "8.9", 24 * 2**30, 20 * 2**30, "595.10")


def build(root: Path, sm: str = "sm89", settings: PlanSettings = SETTINGS) -> StoredPlan:
    target = Target(sm, sm, load_library("tensorrt_rtx"))
    return ensure_plan(root, target, settings, lambda _title: nullcontext[OnFraction](lambda _fraction: None))


def running() -> RunningLibrary:
    return RunningLibrary("tensorrt_rtx", load_library("tensorrt_rtx").version)


_HEADS: dict[tuple[bytes, str, int], tuple[memoryview, int]] = {}


@pytest.fixture(autouse=True)
def heads_are_built_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one graph, target and number of slots; they are all the same here."""

    def build_head(head: Path, target: Target, settings: PlanSettings) -> tuple[memoryview, int]:
        key = head.read_bytes(), target.sm, settings.max_slots
        if key not in _HEADS:
            _HEADS[key] = builder_head(head, target, settings)
        return _HEADS[key]

    monkeypatch.setattr("export.plan.builder._build_head", build_head)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models") / "tiny"
    write_package(root)
    stored = build(root)
    assert stored.reasons == ("tiny holds no plan for sm89",)
    return root


@pytest.fixture
def root(built: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(built, tmp_path / "tiny"))


def edit(root: Path, change: Callable[[PlanSidecar], PlanSidecar]) -> None:
    path = root / "trt/sm89.plan.json"
    sidecar = msgspec.json.decode(path.read_bytes(), type=PlanSidecar)
    path.write_bytes(msgspec.json.encode(change(sidecar)))


def test_a_plan_leaves_the_package_whole_and_nothing_beside_it(root: Path) -> None:
    load_package(root)
    assert sorted(path.name for path in (root / "trt").iterdir()) == [
        "model.onnx",
        "model.onnx.data",
        "sm89.plan",
        "sm89.plan.cdx.json",
        "sm89.plan.intoto.json",
        "sm89.plan.json",
    ]
    assert [path.name for path in root.parent.iterdir()] == ["tiny"]


def test_the_sidecar_records_what_was_built(root: Path) -> None:
    sidecar = read_sidecar(root, "sm89").sidecar
    assert (sidecar.key.library, sidecar.key.target, sidecar.key.compute_capability) == ("tensorrt_rtx", "sm89", "8.9")
    assert (sidecar.key.max_slots, sidecar.key.prefill_tokens, sidecar.key.max_logits) == (4, 32, 16)
    assert sidecar.key.graph_sha256 == {
        name: info.sha256
        for name, info in load_package(root).manifest.files.items()
        if name.startswith(("trt/", "selection/"))
    }
    assert (sidecar.capacity, sidecar.precision["mlp"], sidecar.driver) == (64, "float16", "")
    assert sidecar.key.max_model_len == 64
    assert 2**20 < sidecar.scratch_bytes < 2**24  # some 8 MB, as the builder's log says it
    assert sidecar.plan_bytes == (root / "trt/sm89.plan").stat().st_size
    begin = sidecar.plan_bytes - sidecar.selection_bytes
    assert sidecar.decoder_bytes <= begin < sidecar.decoder_bytes + 4096
    assert (begin % 4096, sidecar.selection_bytes > 2**20) == (0, True)


def test_an_equal_wish_builds_nothing(root: Path) -> None:
    before = (root / "trt/sm89.plan").stat().st_mtime_ns
    assert build(root).reasons == ()
    assert (root / "trt/sm89.plan").stat().st_mtime_ns == before


def test_another_wish_is_built_and_says_why(root: Path) -> None:
    assert build(root, settings=replace(SETTINGS, max_slots=2, workspace_bytes=2**30)).reasons == (
        "max slots is 2, the plan was built with 4",
        "workspace bytes is 1073741824, the plan was built with 0",
    )
    assert read_sidecar(root, "sm89").sidecar.key.max_slots == 2


def test_another_graph_is_built_anew(root: Path, tmp_path: Path) -> None:
    other = tmp_path / "other" / "tiny"
    write_package(other, seed=1)
    for name in ("sm89.plan", "sm89.plan.json"):
        shutil.copy(root / "trt" / name, other / "trt" / name)
    name = "trt/model.onnx"
    digests = [load_package(one).manifest.files[name].sha256[:12] for one in (other, root)]
    with pytest.raises(PlanError, match=f"built from {name} {digests[1]}, the package holds {digests[0]}"):
        choose_plan(load_package(other), running(), ADA)
    assert build(other).reasons[0] == f"{name} is {digests[0]}, the plan was built from {digests[1]}"
    choose_plan(load_package(other), running(), ADA)


def test_a_fit_plan_is_chosen(root: Path) -> None:
    assert choose_plan(load_package(root), running(), ADA).path == root / "trt/sm89.plan"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-9]), r"has [\d,]+ bytes, its sidecar says [\d,]+; rebuild"),
        (
            lambda path: path.write_bytes(b"\0" + path.read_bytes()[1:]),
            r"has sha256 \w+, its sidecar says \w+; re",
        ),
        (lambda path: path.with_name("sm89.plan.json").unlink(), r"has no usable sm89\.plan\.json; build it"),
        (lambda path: path.with_name("sm89.plan.json").write_text("{"), r"sm89\.plan\.json is not readable"),
        (lambda path: path.unlink(), "holds no plan; build one with 'powertrain engine .* --target sm89'"),
    ],
    ids=["truncated", "bit-flipped", "no sidecar", "broken sidecar", "no plan"],
)
def test_a_damaged_plan_is_refused(root: Path, change: Callable[[Path], object], message: str) -> None:
    change(root / "trt/sm89.plan")
    with pytest.raises(PlanError, match=message) as raised:
        choose_plan(load_package(root), running(), ADA)
    assert f"powertrain engine {root} --target sm89" in str(raised.value)


def test_an_edited_sidecar_is_refused(root: Path) -> None:
    edit(root, lambda sidecar: msgspec.structs.replace(sidecar, capacity=128))
    with pytest.raises(PlanError, match=r"sm89\.plan\.json was edited after the build"):
        choose_plan(load_package(root), running(), ADA)
    assert build(root).reasons == ("sm89.plan.json was edited after the build",)


def test_another_version_is_refused(root: Path) -> None:
    with pytest.raises(PlanError, match=r"was built by tensorrt_rtx 1\..*, this machine runs tensorrt_rtx 9\.9"):
        choose_plan(load_package(root), RunningLibrary("tensorrt_rtx", "9.9.9"), ADA)


def test_another_library_is_refused(root: Path) -> None:
    with pytest.raises(PlanError, match=r"this machine runs tensorrt 11\.4; build one with '.* --target current'"):
        choose_plan(load_package(root), RunningLibrary("tensorrt", "11.4"), ADA)


def test_another_gpu_is_refused(root: Path) -> None:
    blackwell = Gpu(0, "GPU-00001", "RTX 5090", "12.0", 32 * 2**30, 32 * 2**30, "595.10")
    with pytest.raises(PlanError, match=r"built for compute capability 8\.9, RTX 5090 has 12\.0; .* --target sm120'"):
        choose_plan(load_package(root), running(), blackwell)


def test_plans_of_several_targets_are_judged_one_by_one(root: Path) -> None:
    build(root, "sm86")
    verdicts = judge_plans(load_package(root), running(), ADA)
    assert [(verdict.target, verdict.problem == "") for verdict in verdicts] == [("sm89", True), ("sm86", False)]


def test_strangers_are_still_refused(root: Path) -> None:
    for name in ("trt/notes.txt", "sm89.plan", "ort/sm89.plan"):
        stranger = root / name
        stranger.write_bytes(b"")
        with pytest.raises(PackageError, match=f"does not name '{name}'"):
            load_package(root)
        stranger.unlink()
    (root / "trt/sm80.plan").symlink_to(root / "trt/sm89.plan")
    with pytest.raises(PackageError, match=r"does not name 'trt/sm80\.plan'"):
        load_package(root)


@pytest.mark.parametrize(
    ("forms", "sm", "words"),
    [
        (["fp8 per channel"], "sm86", r"sm86 has no fp8 arithmetic.* 8\.9 or newer \(sm89, sm120, sm121\)"),
        (
            ["fp8 per channel, nvfp4 block 16"],
            "sm89",
            r"sm89 has no nvfp4 arithmetic.* 10\.0 or newer \(sm120, sm121\)",
        ),
        (["fp8 per channel", "nvfp4 block 16"], "sm80", "sm80 has no nvfp4 arithmetic"),
        (["fp8 per channel"], "sm89", ""),
        (["nvfp4 block 16"], "sm120", ""),
        (["int8 block 64", "float16"], "sm75", ""),
    ],
)
def test_gpus_without_a_form_of_weights_are_refused_by_name(forms: list[str], sm: str, words: str) -> None:
    target = Target(sm, sm, load_library("tensorrt_rtx"))
    with pytest.raises(PlanError, match=words) if words else nullcontext():
        check_hardware(forms, target)


def test_the_command_builds_and_explains(tmp_path: Path) -> None:
    root = tmp_path / "tiny"
    write_package(root)
    arguments = [str(root), "--target", "sm89", "--max-slots", "2", "--prefill-tokens", "16"]
    first, second = (CliRunner().invoke(engine_command, arguments) for _ in range(2))
    assert first.exit_code == 0
    assert "built because tiny holds no plan for sm89" in first.output
    slot = 64 * 256 / 2**20  # tokens times bytes
    for output in (" ".join(one.output.split()) for one in (first, second)):
        assert re.search(
            rf"on the GPU: 6\.\d MiB of plan \+ \d+\.\d MiB of scratch \+ {slot:.1f} MiB for each slot of 64 tokens "
            r"= \d+\.\d MiB with 2 slots",
            output,
        )
    assert "is up to date" in second.output
    refused = CliRunner().invoke(engine_command, [str(root), "--target", "sm89"])
    assert refused.exit_code == 1
    assert "--prefill-tokens 512 is not possible" in " ".join(refused.output.split())


def test_inspect_shows_plans_and_what_asks_for_a_rebuild(root: Path) -> None:
    fit = CliRunner().invoke(inspect_command, [str(root)], env={"COLUMNS": "300"})
    assert "MiB, 4 slots of 64 tokens, prefill by 32, attention by mask+lengths, built in" in fit.output
    sealed_again = read_sidecar(root, "sm89").sidecar
    older = msgspec.structs.replace(sealed_again.key, library_version="1.6.0")
    write_sidecar(root / "trt/sm89.plan.json", msgspec.structs.replace(sealed_again, key=older))
    stale = CliRunner().invoke(inspect_command, [str(root)], env={"COLUMNS": "300"})
    words = " ".join(stale.output.split())
    assert "rebuild needed because library version is 1.7" in words
    assert "the plan was built with 1.6.0: powertrain engine" in words


def test_a_sidecar_of_another_version_says_which_and_how_to_build_anew(root: Path) -> None:
    path = root / "trt/sm89.plan.json"
    said = json.loads(path.read_text("utf-8"))
    del said["scratch_bytes"], said["key"]["max_model_len"]
    path.write_text(json.dumps({**said, "schema_version": 1}))
    with pytest.raises(PlanError) as refused:
        read_sidecar(root, "sm89")
    assert str(refused.value) == (
        "sm89.plan.json has schema version 1, this powertrain reads 4; "
        f"build it with 'powertrain engine {root} --target sm89'"
    )
    path.write_text("{}")
    with pytest.raises(PlanError, match=r"^sm89\.plan\.json is not readable \(.*`schema_version`.*; build it with"):
        read_sidecar(root, "sm89")


def test_a_package_without_the_graph_says_how_to_get_it(tmp_path: Path) -> None:
    root = tmp_path / "plain"
    write_package(root, with_trt=False)
    with pytest.raises(PlanError, match="holds no graph for TensorRT; build it with 'powertrain export MODEL"):
        build(root)


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


@pytest.fixture
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


@pytest.mark.usefixtures("quick_builds")
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


@pytest.mark.usefixtures("quick_builds")
def test_a_library_without_lengths_builds_masks_and_nothing_twice(root: Path) -> None:
    old = replace(load_library("tensorrt_rtx"), module=ModuleType("tensorrt_rtx"))
    target = Target("sm89", "sm89", old)

    def ensure(settings: PlanSettings) -> StoredPlan:
        return ensure_plan(root, target, settings, lambda _title: nullcontext[OnFraction](lambda _fraction: None))

    assert ensure(SETTINGS).reasons == ("attention is mask, the plan was built with mask+lengths",)
    assert ensure(SETTINGS).reasons == ()
    with pytest.raises(PlanError, match="takes no lengths of attention's keys; build with --attention mask"):
        ensure(replace(SETTINGS, attention="lengths"))


@pytest.mark.usefixtures("quick_builds")
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


@pytest.mark.usefixtures("quick_builds")
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


@pytest.mark.usefixtures("quick_builds")
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


@pytest.mark.usefixtures("quick_builds")
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


def test_a_slot_too_short_for_anything_is_refused(root: Path) -> None:
    with pytest.raises(PlanError, match="--max-model-len 15 is too short; choose 16 to 64"):
        build(root, settings=replace(SETTINGS, max_model_len=15))
