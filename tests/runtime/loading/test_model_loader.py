"""What the operator asks of the KV cache reaches the plan as asked, or is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from runtime.errors import KVBudgetError, PackageError
from runtime.loading import model_loader
from runtime.loading.backend import Backend, BackendChoice
from runtime.loading.gpu import Gpu
from runtime.loading.model_loader import ModelOptions, plan_model, session_factory
from runtime.package.manifest import MANIFEST_FILE, GraphInfo, load_package
from runtime.package.package_file import hashed
from runtime.package.plan_sidecar import PlanFile, PlanSidecar
from tests.fakes import ScriptedSession, adding
from tests.runtime.package.made import make_package

# 2 x 1 layer x 1 head x 8 x 4 bytes = 64 bytes a token, 2,048 a slot of 32 tokens.
FREE_BYTES = 100_000


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(model_loader, "available_memory_bytes", lambda: FREE_BYTES)
    graph = GraphInfo("ort/model.onnx", "float32", ("cpu",), {}, weight_bytes=0, num_nodes=1)
    return load_package(make_package(tmp_path / "tiny", graphs={"ort": graph}))


@pytest.mark.parametrize(
    ("options", "num_slots", "slot_tokens"),
    [
        ({}, 16, 32),  # 0.4 of 100,000 bytes would hold 19
        ({"num_slots": 19}, 19, 32),
        ({"kv_cache_share": 0.1}, 4, 32),
        ({"kv_cache_bytes": 6_200}, 3, 32),
        ({"num_slots": 30, "max_model_len": 20}, 30, 20),
    ],
)
def test_granted(package: Any, options: dict[str, Any], num_slots: int, slot_tokens: int) -> None:
    plan = plan_model(package, ModelOptions(**options))
    assert (plan.num_slots, plan.slot_tokens) == (num_slots, slot_tokens)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_slots": 20}, "20 slots x 32 tokens x 64 bytes/token needs 40,960 bytes, the budget is 40,000"),
        ({"kv_cache_bytes": 2_000}, "needs 2,048 bytes, the budget is 2,000; max_model_len 31 would fit"),
        ({"kv_cache_share": 0.01}, "needs 2,048 bytes, the budget is 1,000"),
        ({"kv_cache_bytes": 4_000, "num_slots": 2}, "num_slots 1 or max_model_len 31 would fit"),
    ],
)
def test_refused(package: Any, options: dict[str, Any], words: str) -> None:
    with pytest.raises(KVBudgetError, match=words):
        plan_model(package, ModelOptions(**options))


@pytest.mark.parametrize("gpu", [Gpu(0, "GPU-a", "x", "8.9", 1, 1, "1"), None])
def test_a_package_that_changes_while_it_is_loaded_gives_no_session(
    package: Any, gpu: Gpu | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Libraries open files by their paths, after these were verified."""
    session = ScriptedSession(adding)

    def load() -> ScriptedSession:
        (package.root / "ort/model.onnx").write_bytes(b"other graph")
        return session

    maker = "_cpu_factory" if gpu is None else "gpu_session_factory"
    monkeypatch.setattr(model_loader, maker, lambda *_, **__: load)
    options = ModelOptions(kv_cache_bytes=2**20, backend=BackendChoice(Backend.CUDA, (), gpu))
    kv = plan_model(package, ModelOptions())
    with pytest.raises(PackageError, match=r"ort/model\.onnx has changed since it was verified"):
        session_factory(package, kv, options)()
    assert session.closed


@pytest.mark.parametrize("late", ["sm89.plan", "sm89.plan.json"])
def test_a_plan_that_no_signature_named_gives_no_session(
    package: Any, late: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It came to the package after that was verified, so nobody has looked at it."""
    session, plan = ScriptedSession(adding), package.root / "trt/sm89.plan"
    plan.parent.mkdir()
    names = (MANIFEST_FILE, "trt/sm89.plan", "trt/sm89.plan.json")
    for name in names[1:]:
        (package.root / name).write_bytes(b"x")
    seals = {name: hashed(package.root / name)[1] for name in names}
    monkeypatch.setattr(model_loader, "gpu_session_factory", lambda *_, **__: lambda: session)
    file = PlanFile(plan, cast("PlanSidecar", None))
    options = ModelOptions(
        backend=BackendChoice(Backend.TENSORRT_RTX, (), Gpu(0, "GPU-a", "x", "8.9", 1, 1, "1"), file)
    )
    kv = plan_model(package, ModelOptions())
    session_factory(replace(package, seals=seals), kv, options)()
    with pytest.raises(PackageError, match=f"{late} came after the signature was verified"):
        session_factory(replace(package, seals={n: s for n, s in seals.items() if n != f"trt/{late}"}), kv, options)()
    assert session.closed
