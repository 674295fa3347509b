"""A choice that a recipe pins: taken without a search where it holds, measured anew where it does not."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner

from export.commands.export import export_command
from export.errors import QualityError, RecipeError
from export.measure import gauge
from export.measure.pinned import choice_digest, pin_text
from export.measure.quality import text_windows
from export.measure.sensitivity import Unit
from export.package.builder import build_package
from export.progress import SilentReporter
from export.source.recipe import FolderSource, PinnedChoice, QualityLimits, Recipe, WheelSource, load_recipe
from runtime.package.manifest import PROVENANCE_FILES, Manifest, load_package
from tests.export.tiny_models import write_tiny_folder
from tests.paths import MODELS

SEARCHED = Recipe(
    name="hf", source=FolderSource(path="hf"), precision="w8a8", quality=QualityLimits(max_mean_kl=0.5),
    max_model_len=64,
)  # fmt: skip


class Listening(SilentReporter):
    """A reporter that keeps what it was to say."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


@dataclass(frozen=True)
class Searched:
    """A folder with a checkpoint ``hf``, the manifest of the package that a search made of it, and what was printed."""

    base: Path
    manifest: Manifest
    pinned: PinnedChoice

    def recipe(self, **changes: object) -> Recipe:
        """The recipe that pins the choice, with ``changes`` of the pin."""
        return msgspec.structs.replace(SEARCHED, pinned=msgspec.structs.replace(self.pinned, **changes))


@pytest.fixture(scope="module", autouse=True)
def _few_texts() -> Iterator[None]:
    """A search runs each graph over all texts; four windows are enough to see what is done with it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gauge, "text_windows", lambda *arguments: islice(text_windows(*arguments), 4))
        yield


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Searched:
    """Through the command, whose printed tables are what a recipe takes."""
    base = tmp_path_factory.mktemp("pinned")
    arguments = [str(write_tiny_folder(base / "hf", "llama")), "--precision", "w8a8", "--max-kl", "0.5"]
    arguments += ["--max-model-len", "64", "--remeasure", "-o", str(base / "searched")]
    run = CliRunner().invoke(export_command, arguments)
    assert run.exit_code == 0, run.output
    tables = tomllib.loads(run.output[run.output.index("[pinned]") :])
    return Searched(base, load_package(base / "searched").manifest, msgspec.convert(tables["pinned"], PinnedChoice))


def forbid_search(monkeypatch: pytest.MonkeyPatch) -> None:
    def probe(*_arguments: object) -> None:
        raise AssertionError("a search began")

    monkeypatch.setattr(gauge, "SensitivityProbe", probe)


def without_times_and_recipe(manifest: Manifest) -> Manifest:
    files = {name: info for name, info in manifest.files.items() if name not in PROVENANCE_FILES}
    changes = {"build_seconds": 0.0, "created_unix": 0, "recipe_digest": "", "recipe": {}, "files": files}
    return msgspec.structs.replace(manifest, **changes)


def test_a_pinned_choice_gives_the_searched_package_without_a_search(
    searched: Searched, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forbid_search(monkeypatch)
    built = build_package(searched.recipe(), searched.base, tmp_path / "tiny", SilentReporter())
    assert without_times_and_recipe(load_package(built.root).manifest) == without_times_and_recipe(searched.manifest)
    assert built.manifest.quality is not None
    with pytest.raises(AssertionError, match="a search began"):
        build_package(searched.recipe(), searched.base, tmp_path / "tiny", SilentReporter(), remeasure=True)


@pytest.mark.parametrize("changed", ["digest", "limit"])
def test_a_pin_for_something_else_is_measured_anew(
    changed: str, searched: Searched, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forbid_search(monkeypatch)
    recipe = searched.recipe(digest="0" * 64) if changed == "digest" else searched.recipe()
    if changed == "limit":
        recipe = msgspec.structs.replace(recipe, quality=QualityLimits(max_mean_kl=0.4))
    reporter = Listening()
    with pytest.raises(AssertionError, match="a search began"):
        build_package(recipe, searched.base, tmp_path / "tiny", reporter)
    assert reporter.said[-1] == "The recipe pins a choice for other weights, settings or code: measuring anew"


def test_what_a_digest_covers(monkeypatch: pytest.MonkeyPatch) -> None:
    digest = choice_digest(SEARCHED, "a")
    others: list[dict[str, Any]] = [{"precision": "auto"}, {"block": 32}, {"max_model_len": 32}]
    others += [{"quality": QualityLimits(max_mean_kl=0.4)}]
    digests = [choice_digest(msgspec.structs.replace(SEARCHED, **change), "a") for change in others]
    digests += [digest, choice_digest(SEARCHED, "b")]
    for file in ("measure/quality.py", "checkpoint/quantize.py"):  # other code in place of what decides
        monkeypatch.setattr("export.measure.pinned._DECIDING_CODE", (file,))
        digests.append(choice_digest(SEARCHED, "a"))
    assert len(set(digests)) == 8


def test_a_pinned_choice_over_the_limit_fails_and_says_what_to_do(searched: Searched, tmp_path: Path) -> None:
    recipe = msgspec.structs.replace(SEARCHED, quality=QualityLimits(max_mean_kl=1e-9))
    sha256 = searched.manifest.source.sha256
    pinned = PinnedChoice(digest=choice_digest(recipe, sha256), units={"qkv of layers 0-1": 0.0})
    with pytest.raises(QualityError, match=r"the limit is 1e-09.*the recipe pins this choice, --remeasure searches"):
        build_package(
            msgspec.structs.replace(recipe, pinned=pinned), searched.base, tmp_path / "tiny", SilentReporter()
        )


@pytest.mark.parametrize("label", ["kv of layers 0-1", "qkv of layers 1-0", "qkv of layers 0-2", "qkv", ""])
def test_a_unit_that_the_model_does_not_have_is_named(label: str, searched: Searched) -> None:
    recipe = searched.recipe(units={label: 0.0})
    with pytest.raises(RecipeError, match=r"pinned.units has '.*'; a unit is called 'ROLE of layers FIRST-LAST'"):
        build_package(recipe, searched.base, searched.base / "wrong", SilentReporter())


def test_what_chooses_nothing_cannot_be_measured_anew(searched: Searched, tmp_path: Path) -> None:
    run = CliRunner().invoke(export_command, [str(searched.base / "hf"), "--remeasure", "-o", str(tmp_path / "other")])
    assert "precision 'int8' chooses nothing by measurement; auto and w8a8 do" in run.output


def test_a_pin_is_read_as_it_is_written() -> None:
    units = [Unit("qkv", 0, 1, 1, 0.0012), Unit("down", 1, 1, 1, 0.5)]
    pinned = msgspec.toml.decode(pin_text("d", units))["pinned"]
    assert pinned == {"digest": "d", "units": {"qkv of layers 0-1": 0.0012, "down of layers 1-1": 0.5}}


def test_the_default_recipe_s_choice_holds() -> None:
    """Else the first start searches for over a minute. Code that decides nothing else may just need the new digest."""
    recipe = load_recipe(MODELS / "smollm2-135m-instruct.toml")
    assert recipe.pinned is not None
    assert isinstance(recipe.source, WheelSource)
    assert recipe.pinned.digest == choice_digest(recipe, recipe.source.member_sha256)
