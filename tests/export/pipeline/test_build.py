"""Building pipelines: what is built again after which change, what a failure takes with it, and what a kill leaves."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from export.commands.build import FAILED, NOTHING_TO_DO, POOR, exit_status
from export.folder_lock import exclusive, exclusive_folder
from export.measure import gauge
from export.pipeline import place
from export.pipeline.cache import Cache, new_entry
from export.pipeline.judge import rehearse
from export.pipeline.runner import State
from export.pipeline.upkeep import damaged_entries
from runtime.package import plan_sidecar
from runtime.package.manifest import BOM_FILE, PROVENANCE_FILE, load_package, read_manifest
from runtime.session.cpu.ort_session import OrtSession
from runtime.session.selected import Selected, from_logits
from runtime.session.session import Int64Array
from tests.export.pipeline.rehearsing import (
    ALL,
    CPU_ONLY,
    FULL,
    MODEL,
    InProcess,
    Workshop,
    job_name,
    pretend_to_compile,
)
from tests.export.tiny_models import tiny_input_ids, write_tiny_folder

pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is published for Linux on x86-64 only")


def package_files(folder: Path) -> dict[str, int]:
    """Every file of the package that is no manifest -> its number on the disk: another number, another copy."""
    files = [path for path in (folder / "out/tiny-fp32").rglob("*") if path.is_file() and path.name != "manifest.json"]
    return {path.name: path.stat().st_ino for path in files}


def test_what_was_built_is_a_whole_package_with_its_plans(built: Path) -> None:
    package = load_package(built / "out/tiny-fp32")
    assert (package.manifest.name, package.manifest.served_names) == ("tiny-fp32", ("tiny-fp32",))
    assert package.manifest.source.name == "hf"
    (kept,) = built.glob("cache/steps/*/files/manifest.json")
    assert (read_manifest(kept.parent).name, read_manifest(kept.parent).served_names) == ("package", ("package",))
    assert plan_sidecar.plan_targets(package.root) == ["sm120", "sm89"]
    for target in ("sm89", "sm120"):
        plan = plan_sidecar.read_sidecar(package.root, target)
        plan_sidecar.check_plan_bytes(plan)
        assert plan.sidecar.key.graph_sha256 == plan_sidecar.graph_digests(package)
        assert plan.sidecar.key.max_slots == 4
    assert damaged_entries(Cache(built / "cache"), lambda _stored: None) == []
    assert sorted(path.name for path in (built / "out").iterdir()) == ["tiny-fp32"]
    assert list((built / "cache/partial").iterdir()) == []


def test_a_second_build_has_nothing_to_do(shop: Workshop) -> None:
    outcomes = shop.build(FULL)
    assert (shop.started, exit_status(outcomes)) == ([], NOTHING_TO_DO)


def test_a_changed_served_name_rebuilds_nothing(shop: Workshop) -> None:
    before = package_files(shop.folder)
    shop.build(FULL.replace('name = "tiny"', 'name = "tiny"\nserved_names = ["a/b", "c"]'))
    assert shop.started == ["place tiny-fp32"]
    assert package_files(shop.folder) == before
    assert load_package(shop.folder / "out/tiny-fp32").manifest.served_names == ("a/b", "c")


def test_a_changed_licence_rebuilds_nothing_and_is_in_what_the_package_says_of_itself(shop: Workshop) -> None:
    shop.build(FULL.replace('name = "tiny"', 'name = "tiny"\nlicense = "MIT"'))
    assert shop.started == ["place tiny-fp32"]
    root = shop.folder / "out/tiny-fp32"
    assert load_package(root).manifest.source.license == "MIT"
    for name in (PROVENANCE_FILE, "trt/sm89.plan.intoto.json"):
        (source, *_) = json.loads((root / name).read_text())["predicate"]["buildDefinition"]["resolvedDependencies"]
        assert source["annotations"]["license"] == "MIT"
    assert json.loads((root / BOM_FILE).read_text())["metadata"]["component"]["licenses"] == [
        {"license": {"id": "MIT"}}
    ]
    shop.build(FULL.replace('name = "tiny"', 'name = "tiny"\nlicense = "MIT"'))
    assert shop.started == []


def test_another_name_of_the_package_is_a_copy_and_no_build(shop: Workshop) -> None:
    shop.build(FULL.replace('name = "tiny"', 'name = "other"'))
    assert shop.started == ["place other-fp32"]
    assert load_package(shop.folder / "out/other-fp32").manifest.name == "other-fp32"


def test_a_changed_precision_rebuilds_no_download(shop: Workshop) -> None:
    outcomes = shop.build(FULL.replace("fp32", "fp16"))
    assert sorted(shop.started) == sorted(name.replace("fp32", "fp16") for name in ALL[1:])
    assert [one.step.name for one in outcomes if one.state is State.FRESH] == ["fetch tiny"]


def test_engines_survive_an_unchanged_graph(shop: Workshop) -> None:
    (shop.folder / "t.jinja").write_text("{{ messages[0].content }}")
    before = package_files(shop.folder)
    text = FULL.replace('name = "tiny"', 'name = "tiny"\nchat_template = "t.jinja"')
    prospects = rehearse(shop.setup(text).steps, shop.setup(text).judge().verdict)
    assert [(one.step.name, one.verdict.why) for one in prospects if not one.verdict.is_fresh][:2] == [
        ("package tiny-fp32", "chat template changed"),
        ("plan tiny-fp32 sm89", "after package tiny-fp32"),
    ]
    shop.build(text)
    assert shop.started == ["package tiny-fp32", "self-test tiny-fp32", "place tiny-fp32"]
    after = package_files(shop.folder)
    assert (shop.folder / "out/tiny-fp32/chat_template.jinja").read_text() == "{{ messages[0].content }}"
    assert after["sm89.plan"] == before["sm89.plan"]


def test_an_engines_setting_rebuilds_that_engine_alone(shop: Workshop) -> None:
    text = FULL.replace("max_slots = 4", "max_slots = 8", 1)
    prospects = rehearse(shop.setup(text).steps, shop.setup(text).judge().verdict)
    assert [one.verdict.why for one in prospects if not one.verdict.is_fresh] == [
        "max slots is 8, was 4",
        "after plan tiny-fp32 sm89",
    ]
    shop.build(text)
    assert shop.started == ["plan tiny-fp32 sm89", "place tiny-fp32"]
    sidecar = plan_sidecar.read_sidecar(shop.folder / "out/tiny-fp32", "sm89").sidecar
    assert sidecar.key.max_slots == 8


def test_another_checkpoint_is_built_anew(shop: Workshop) -> None:
    shop.checkpoints = shop.folder
    for architecture in ("llama", "qwen3"):
        write_tiny_folder(shop.folder / "hf", architecture)
        shop.build(CPU_ONLY)
        assert shop.started[-2:] == ["package tiny-fp32", "place tiny-fp32"]
    assert shop.started[0] == "fetch tiny"
    assert load_package(shop.folder / "out/tiny-fp32").manifest.architecture == "qwen3"


def test_what_was_altered_in_the_cache_reaches_no_package(shop: Workshop) -> None:
    shutil.rmtree(shop.folder / "out")
    (data,) = shop.folder.glob("cache/steps/*/files/ort/model.onnx.data")
    data.write_bytes(bytes(data.stat().st_size))
    (lost,) = [one for one in shop.build(FULL) if one.state is not State.FRESH]
    assert (lost.state, shop.started) == (State.FAILED, ["place tiny-fp32"])
    assert "model.onnx.data of tiny-fp32 was altered in the cache" in lost.text
    assert not (shop.folder / "out/tiny-fp32").exists()
    shop.build(FULL)
    assert shop.started == ["package tiny-fp32", "place tiny-fp32"]
    load_package(shop.folder / "out/tiny-fp32")


def test_a_failure_takes_along_only_what_needs_it(shop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    text = 'precisions = ["int8"]\nself_test = false\n[[model]]\nmodel = "hf"\nmax_kl = 1e-9\n' + MODEL
    monkeypatch.setattr(gauge, "text_windows", lambda *_: iter([tiny_input_ids(24)]))
    outcomes = {one.step.name: one for one in shop.build(text)}
    assert {name: one.state for name, one in outcomes.items()} == {
        "fetch hf": State.FRESH,
        "package hf-int8": State.POOR,
        "place hf-int8": State.SKIPPED,
        "package tiny-int8": State.BUILT,
        "place tiny-int8": State.BUILT,
    }
    assert "the limit is 1e-09" in outcomes["package hf-int8"].text
    assert exit_status(list(outcomes.values())) == POOR
    assert not (shop.folder / "out/hf-int8").exists()


def test_a_hub_repository_is_looked_up_once_and_again_when_asked(shop: Workshop) -> None:
    setup = shop.setup('[[model]]\nmodel = "owner/name"')
    identity = setup.steps[0].identity({})  # type: ignore[attr-defined]
    with setup.cache.making(identity.key) as files:
        setup.cache.publish(new_entry(files, **msgspec.structs.asdict(identity), facts={}), files)
    assert setup.judge().verdict(setup.steps[0], {}).is_fresh
    assert setup.judge(refetch=True).verdict(setup.steps[0], {}).why == "asked to fetch again"
    setup.forget_fetched()
    assert not setup.judge().verdict(setup.steps[0], {}).is_fresh


def test_two_names_of_one_package_are_built_once(shop: Workshop) -> None:
    shop.build(CPU_ONLY + '[[model]]\nmodel = "hf"\nname = "twin"\nquality = false')
    assert shop.started == ["package tiny-fp32", "place tiny-fp32", "place twin-fp32"]


@pytest.mark.parametrize(
    ("factor", "words"), [(50.0, "does not agree with itself: up to"), (float("nan"), "logits that are no numbers")]
)
def test_a_package_that_decodes_another_model_is_not_put_in_place(
    factor: float, words: str, shop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = OrtSession.decode_tokens

    def scaled(session: OrtSession, slots: Int64Array, *rest: Any) -> Selected:
        return from_logits(real(session, slots, *rest).logits(range(len(slots))) * np.float32(factor))

    monkeypatch.setattr(OrtSession, "decode_tokens", scaled)
    for entry in (shop.folder / "cache/steps").iterdir():
        if json.loads((entry / "entry.json").read_bytes())["kind"] == "self-test":
            shutil.rmtree(entry)
    shutil.rmtree(shop.folder / "out")
    outcomes = {one.step.name: one for one in shop.build(FULL)}
    assert words in outcomes["self-test tiny-fp32"].text
    assert outcomes["place tiny-fp32"].state is State.SKIPPED
    assert not (shop.folder / "out").exists()


def test_fail_fast_starts_nothing_more(shop: Workshop) -> None:
    (shop.folder / "bad").mkdir()
    (shop.folder / "bad/config.json").write_text("{}")
    text = 'precisions = ["int8"]\nself_test = false\n[[model]]\nmodel = "bad"\n' + MODEL
    outcomes = shop.build(text, fail_fast=True)
    assert shop.started == ["fetch bad"]
    assert exit_status(outcomes) == FAILED
    assert {one.step.name: one.text for one in outcomes if one.state is State.SKIPPED} == {
        "package bad-int8": "needs fetch bad",
        "place bad-int8": "needs fetch bad",
        "package tiny-int8": "another step failed before",
        "place tiny-int8": "needs package tiny-int8",
    }


def test_a_step_that_another_build_makes_is_waited_for_and_taken(shop: Workshop) -> None:
    """While the other build holds the key, only a stranger's process could tell; its entry counts as this one's."""
    text = FULL.replace("max_slots = 4", "max_slots = 2", 1)
    plan = next(step for step in shop.setup(text).steps if step.name == "plan tiny-fp32 sm89")
    made: list[Path] = []

    def launch(job: Any) -> InProcess:
        if job_name(job) == plan.name:
            InProcess(job)
            made.append(shop.folder / "cache/steps" / job.task.identity.key)
            first = (made[0] / "entry.json").read_bytes()
            running = InProcess(job)
            assert (made[0] / "entry.json").read_bytes() == first
            return running
        return InProcess(job)

    shop.build(text, launch=launch)
    assert len(made) == 1


def test_a_place_that_another_build_fills_is_waited_for_and_taken(
    shop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, lock = shop.folder / "out/tiny-fp32", shop.folder / "out/.tiny-fp32.partial.lock"
    other = root.rename(shop.folder / "other")
    waiting = threading.Event()

    def told(folder: Path, purpose: str, way_out: str, *, wait: bool = False) -> AbstractContextManager[Path]:
        waiting.set()
        assert wait  # and whether it had to is the machine's affair
        return exclusive_folder(folder, purpose, way_out, wait=wait)

    monkeypatch.setattr(place, "exclusive_folder", told)
    with ThreadPoolExecutor(1) as pool:
        with exclusive(lock, "building tiny-fp32"):
            outcomes = pool.submit(shop.build, FULL)
            assert waiting.wait(60)
            other.rename(root)
            inode = root.stat().st_ino
        assert {one.state for one in outcomes.result(60)} == {State.FRESH, State.BUILT}
    assert shop.started == ["place tiny-fp32"]
    assert root.stat().st_ino == inode
    load_package(root)


KILLS: dict[str, tuple[Any, str, str]] = {
    "before a package's entry is there": (Cache, "publish", "package tiny-fp32"),
    "before a plan's entry is there": (Cache, "publish", "plan tiny-fp32 sm89"),
    "before a package is in its place": (place, "put_in_place", "place tiny-fp32"),
    "before its plans are": (place, "_copy_plan", "place tiny-fp32"),
}


@pytest.mark.parametrize(
    ("moment", "after"),
    [
        ("before a package's entry is there", False),
        ("before a plan's entry is there", True),
        ("before a package is in its place", False),
        ("before a package is in its place", True),
        ("before its plans are", True),
    ],
)
def test_after_a_kill_the_next_build_completes_and_repeats_one_step_at_most(
    moment: str, after: bool, built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend_to_compile(monkeypatch)
    owner, name, victim = KILLS[moment]
    shutil.copytree(built / "cache", tmp_path / "cache")
    shop = Workshop(tmp_path, built)
    text = FULL.replace("max_slots = 4", "max_slots = 2") if victim.startswith("plan") else FULL
    if victim.startswith("package"):
        for entry in (tmp_path / "cache/steps").iterdir():
            if json.loads((entry / "entry.json").read_bytes())["kind"] == "package":
                shutil.rmtree(entry)
    started = _killed_build(shop, text, owner, name, victim, after=after)
    assert started[-1] == victim
    outcomes = shop.build(text)
    assert {one.state for one in outcomes} <= {State.FRESH, State.BUILT}
    repeated = set(started) & set(shop.started)
    assert repeated <= {victim}
    load_package(tmp_path / "out/tiny-fp32")
    assert plan_sidecar.plan_targets(tmp_path / "out/tiny-fp32") == ["sm120", "sm89"]
    assert damaged_entries(Cache(tmp_path / "cache"), lambda _stored: None) == []
    left = {path.name for path in (tmp_path / "out").iterdir()} - {"tiny-fp32"}
    assert left <= {".tiny-fp32.partial.lock", ".tiny-fp32.plan.lock"}  # empty; a process that is gone holds nothing
    assert not any((tmp_path / "cache/partial").iterdir())


def _killed_build(shop: Workshop, text: str, owner: Any, name: str, victim: str, *, after: bool) -> list[str]:
    """Steps that a build started in a copy of this process, which SIGKILL ended in ``victim`` beside ``owner.name``."""
    reader, writer = os.pipe()
    process = os.fork()
    if process == 0:  # no test report from here: this process only ever ends by SIGKILL
        try:
            _build_and_die(shop, text, owner, name, victim, after=after, writer=writer)
        finally:
            os._exit(1)
    os.close(writer)
    with os.fdopen(reader) as lines:
        started = lines.read().splitlines()
    _, status = os.waitpid(process, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL
    return started


def _build_and_die(shop: Workshop, text: str, owner: Any, name: str, victim: str, *, after: bool, writer: int) -> None:
    real: Callable[..., Any] = getattr(owner, name)
    running = ""

    def deadly(*args: Any, **named: Any) -> Any:
        if running == victim and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        result = real(*args, **named)
        if running == victim:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    def launch(job: Any) -> InProcess:
        nonlocal running
        running = job_name(job)
        os.write(writer, f"{running}\n".encode())
        return InProcess(job)

    setattr(owner, name, deadly)
    shop.build(text, launch=launch)
