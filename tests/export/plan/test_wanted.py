"""The key of a wanted plan, field by field, from a package's manifest, a target and settings; no TensorRT is asked."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

from export.plan.library import Library
from export.plan.settings import PlanSettings
from export.plan.targets import Target
from export.plan.wanted import wanted_key
from runtime.errors import PlanError
from runtime.package.graph_profiles import MAX_LOGITS
from runtime.package.manifest import GraphInfo, Package, load_package
from runtime.package.plan_sidecar import PlanKey
from tests.runtime.package.made import make_package


@pytest.fixture
def package(tmp_path: Path) -> Package:
    """A package of 128 tokens whose one graph stands for TensorRT's."""
    graph = GraphInfo("ort/model.onnx", "float16", ("cuda",), {}, 1, 1)
    return load_package(make_package(tmp_path / "tiny", graphs={"trt": graph}, max_model_len=128))


RTX = Target("sm89", "sm89", Library("tensorrt_rtx", ModuleType("none"), "1.7"))


def test_every_field_of_the_key_is_what_was_asked_for(package: Package) -> None:
    settings = PlanSettings(
        max_slots=3,
        max_model_len=100,
        prefill_tokens=64,
        optimization_level=5,
        workspace_bytes=2**20,
        attention="lengths",
        hardware_compatibility="ampere_plus",
    )
    assert wanted_key(package, RTX, settings) == PlanKey(
        library="tensorrt_rtx",
        library_version="1.7",
        target="sm89",
        compute_capability="8.9",
        hardware_compatibility="ampere_plus",
        graph_sha256={"ort/model.onnx": package.manifest.files["ort/model.onnx"].sha256},
        max_slots=3,
        max_model_len=100,
        prefill_tokens=64,
        max_logits=16,
        optimization_level=5,
        workspace_bytes=2**20,
        attention="lengths",
    )


@pytest.mark.parametrize(("prefill_tokens", "max_logits"), [(1, 1), (8, 8), (16, 16), (17, 16), (512, 16)])
def test_a_call_gives_logits_of_no_more_rows_than_it_has_tokens(
    package: Package, prefill_tokens: int, max_logits: int
) -> None:
    """A drafted continuation is checked by the rows of one call: with fewer than are promised it would take several."""
    key = wanted_key(package, RTX, PlanSettings(prefill_tokens=prefill_tokens))
    assert (key.max_logits, MAX_LOGITS) == (max_logits, 16)


def test_slots_are_as_long_as_the_package_allows(package: Package) -> None:
    assert wanted_key(package, RTX, PlanSettings()).max_model_len == 128
    assert wanted_key(package, RTX, PlanSettings(max_model_len=128)).max_model_len == 128
    with pytest.raises(PlanError, match="--max-model-len 129 is more than the 128 tokens"):
        wanted_key(package, RTX, PlanSettings(max_model_len=129))
    with pytest.raises(PlanError, match=r"--max-model-len 1 is too short; choose \d+ to 128"):
        wanted_key(package, RTX, PlanSettings(max_model_len=1))
