"""On a machine with an NVIDIA GPU: build for it, load, prove against the CPU, serve a batch. Skipped everywhere else.

``make test-gpu`` runs this file. It is the only place where plans are executed.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import nullcontext

import msgspec
import numpy as np
import pytest

from export.package.builder import build_package
from export.plan.progress import OnFraction
from export.plan.settings import PlanSettings
from export.plan.store import ensure_plan
from export.plan.targets import parse_targets
from export.progress import SilentReporter
from export.source.recipe import load_recipe
from runtime.loading.backend import Backend, choose_backend, probe_in_subprocess
from runtime.loading.gpu import find_gpus
from runtime.loading.gpu_loader import gpu_session_factory, plan_gpu_cache
from runtime.loading.self_test import MAX_MEAN_KL, MAX_ROW_KL, check_against_cpu
from runtime.package.manifest import Package, load_package
from runtime.session.kv_budget import KVWishes
from tests.paths import MODELS

REPORT = find_gpus()

pytestmark = [
    pytest.mark.skipif(not REPORT.gpus, reason=f"needs an NVIDIA GPU: {REPORT.problem}"),
    pytest.mark.timeout(1800),
]


@pytest.fixture(scope="module", params=["int8", "fp16"])
def package(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Package]:
    recipe = load_recipe(MODELS / "smollm2-135m-instruct.toml")
    wanted = msgspec.structs.replace(
        recipe, precision=request.param, max_model_len=1024, dialects=("ort", "trt"), quality=None
    )
    root = tmp_path_factory.mktemp("models") / recipe.name
    build_package(wanted, MODELS, root, SilentReporter())
    yield load_package(root)
    shutil.rmtree(root)


@pytest.mark.parametrize("backend", [Backend.TENSORRT, Backend.TENSORRT_RTX, Backend.CUDA])
def test_the_gpu_computes_what_the_cpu_computes(package: Package, backend: Backend) -> None:
    result = probe_in_subprocess(backend)
    if result.problem:
        pytest.skip(f"{backend}: {result.problem}; {result.fix}")
    if backend is Backend.CUDA and package.manifest.graphs["ort"].kv_dtype == "float32":
        pytest.skip("the CUDA provider runs packages in half precision")
    if backend is not Backend.CUDA:
        (target,) = parse_targets("current", "tensorrt" if backend is Backend.TENSORRT else "tensorrt_rtx")
        ensure_plan(package.root, target, PlanSettings(), lambda _: nullcontext[OnFraction](lambda _fraction: None))
    choice = choose_backend(package, backend)
    kv = plan_gpu_cache(package, choice, KVWishes(), kv_cache_bytes=2**31)
    session = gpu_session_factory(package, choice, kv, self_test=True, threads=2)()
    agreement = check_against_cpu(session, package, 2)
    print(f"{backend} {package.manifest.graphs['trt'].precision}: {agreement.explain()}")
    assert agreement.mean_kl <= MAX_MEAN_KL
    assert agreement.max_kl <= MAX_ROW_KL
    prompt = np.arange(100, 130)
    for slot in range(kv.num_slots):
        session.prefill(slot, prompt, 0, 0)
    rows = session.decode(0, np.full(kv.num_slots, 7), np.full(kv.num_slots, len(prompt)))
    np.testing.assert_allclose(rows, np.broadcast_to(rows[0], rows.shape), atol=0.05)  # equal slots, equal logits
    again = session.decode(0, np.full(kv.num_slots, 7), np.full(kv.num_slots, len(prompt)))  # the recorded step
    np.testing.assert_allclose(again, np.broadcast_to(again[0], again.shape), atol=0.05)
    session.close()
