"""Plans in a package: built once, rebuilt for a reason that is named, refused when anything about them changed."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from export.commands.engine import engine_command
from export.commands.inspect import inspect_command
from runtime.errors import PackageError, PlanError
from runtime.loading.gpu import Gpu
from runtime.loading.plan_choice import RunningLibrary, choose_plan, judge_plans
from runtime.package.manifest import load_package
from runtime.package.plan_sidecar import PlanSidecar, read_sidecar, write_sidecar
from tests.export.plan.stored import SETTINGS, build, running
from tests.export.tiny_package import write_package
from tests.runtime.loading.machine import ADA

pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is published for Linux on x86-64 only")
pytestmark = pytest.mark.usefixtures("heads_are_built_once")


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


def test_a_slot_too_short_for_anything_is_refused(root: Path) -> None:
    with pytest.raises(PlanError, match="--max-model-len 15 is too short; choose 16 to 64"):
        build(root, settings=replace(SETTINGS, max_model_len=15))
