"""The doctor's report, finding by finding: state, text and the line that fixes it."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest
from click.testing import CliRunner

from runtime.commands.doctor import doctor_command
from runtime.commands.surroundings import Surroundings
from runtime.install import install_line
from runtime.loading import doctor
from runtime.loading.backend import Backend
from runtime.loading.backend_probe import ProbeResult
from runtime.loading.doctor import Finding, examine
from runtime.loading.gpu import Gpu, GpuReport
from runtime.package.manifest import Package, load_package, write_manifest
from tests.export.tiny_package import write_package
from tests.runtime.loading.machine import ADA, NONE, VERSIONS, add_plan, broken, working

CPU = Finding("cpu", "ok", "4 cores, AVX2, AVX-512 VNNI, 12.5 GiB of memory available")
NO_GPU = Finding("gpu", "missing", "no driver", "install one")
GPU = Finding(
    "gpu", "ok", "0: RTX 4090, GPU-00000, compute capability 8.9 (sm89), driver 595.10, 20.0 of 24.0 GiB free"
)
BUILDER = Finding("builder", "ok", "tensorrt-rtx 1.7.1.116 builds plans for other machines, no GPU needed")
LIBRARIES = [
    Finding("cuda", "ok", "cuda 1.31.1 works"),
    Finding("tensorrt", "ok", "tensorrt 11.4.0 works"),
    Finding("tensorrt-rtx", "ok", "tensorrt_rtx 1.7.1.116 works"),
    Finding("ort-tensorrt", "ok", "ort_tensorrt 1.31.1 works"),
    Finding("ort-tensorrt-rtx", "ok", "ort_tensorrt_rtx 0.5.0 works"),
]


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine whose processor, memory and builder are known."""
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("model name : avx_vnni\nflags : fpu avx2 avx512_vnni\n")
    monkeypatch.setattr(doctor, "_CPUINFO", cpuinfo)
    monkeypatch.setattr(doctor, "_PCI_DEVICES", tmp_path / "pci")
    monkeypatch.setattr(doctor, "available_memory_bytes", lambda: 25 * 2**29)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0, 1, 2, 3})
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: SimpleNamespace())
    monkeypatch.setattr("importlib.metadata.version", lambda _name: "1.7.1.116")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_package(tmp_path_factory.mktemp("models") / "tiny").root


@pytest.fixture
def root(built: Path, tmp_path: Path) -> Path:
    """A package that a test may change."""
    return Path(shutil.copytree(built, tmp_path / "tiny"))


def package_at(root: Path) -> Package:
    return load_package(root)


def size_of(package: Package) -> str:
    return f"{sum(info.size for info in package.manifest.files.values()) / 2**20:.0f}"


def about(root: Path, findings: list[Finding]) -> list[Finding]:
    return [finding for finding in findings if finding.topic == root.name]


def whole(root: Path, runs: str = "; runs on the CPU") -> Finding:
    return Finding("tiny", "ok", f"whole, {size_of(package_at(root))} MiB{runs}", f"powertrain serve {root}")


def test_a_machine_with_nothing(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if "tensorrt" in name else SimpleNamespace())
    assert examine([root], probe=broken, gpus=lambda: NONE) == [
        CPU,
        NO_GPU,
        Finding(
            "builder",
            "missing",
            "TensorRT plans for other machines cannot be built: tensorrt-rtx is not installed",
            install_line("tensorrt-rtx", "tensorrt-rtx"),
        ),
        Finding("cuda", "missing", "cuda is broken; of no use without a GPU"),
        Finding("tensorrt", "missing", "tensorrt is broken; of no use without a GPU"),
        Finding("tensorrt-rtx", "missing", "tensorrt-rtx is broken; of no use without a GPU"),
        whole(root),
    ]


def test_a_processor_without_what_is_looked_for(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("flags : fpu\n")
    (found, *_) = examine([], probe=broken, gpus=lambda: NONE)
    assert found.text == "4 cores, no vector features that are known here, 12.5 GiB of memory available"


def test_a_gpu_whose_libraries_are_broken(root: Path) -> None:
    assert examine([], probe=broken, gpus=lambda: GpuReport((ADA,))) == [
        CPU,
        GPU,
        BUILDER,
        Finding("cuda", "problem", "cuda is broken", "fix cuda"),
        Finding("tensorrt", "problem", "tensorrt is broken", "fix tensorrt"),
        Finding("tensorrt-rtx", "problem", "tensorrt-rtx is broken", "fix tensorrt-rtx"),
        Finding("ort-tensorrt", "missing", "ort-tensorrt is broken", "fix ort-tensorrt"),
        Finding("ort-tensorrt-rtx", "missing", "ort-tensorrt-rtx is broken", "fix ort-tensorrt-rtx"),
    ]
    add_plan(package_at(root), "sm89", "tensorrt_rtx", VERSIONS[Backend.TENSORRT_RTX], "8.9")
    assert about(root, examine([root], probe=broken, gpus=lambda: GpuReport((ADA,)))) == [
        whole(root),
        Finding("tiny", "missing", "plan sm89 cannot run here: no TensorRT library works"),
    ]


def test_onnx_runtimes_tensorrt_runs_no_plan(root: Path) -> None:
    add_plan(package_at(root), "sm89", "tensorrt_rtx", VERSIONS[Backend.TENSORRT_RTX], "8.9")

    def probe(backend: Backend) -> ProbeResult:
        return (broken if backend in {Backend.TENSORRT, Backend.TENSORRT_RTX} else working)(backend)

    assert about(root, examine([root], probe=probe, gpus=lambda: GpuReport((ADA,)))) == [
        whole(root),
        Finding("tiny", "missing", "plan sm89 cannot run here: no TensorRT library works"),
    ]


def test_which_plan_runs_and_which_does_not(root: Path) -> None:
    package, rtx = package_at(root), VERSIONS[Backend.TENSORRT_RTX]
    add_plan(package, "sm89", "tensorrt_rtx", rtx, "8.9")
    add_plan(package, "sm80", "tensorrt_rtx", rtx, "8.0")
    add_plan(package, "current-sm89", "tensorrt", "10.9", "8.9")
    # Every verdict is TensorRT's, the first library asked, unless TensorRT for RTX can run the plan.
    assert examine([root], probe=working, gpus=lambda: GpuReport((ADA,))) == [
        CPU,
        GPU,
        BUILDER,
        *LIBRARIES,
        whole(root),
        Finding(
            "tiny",
            "problem",
            "plan current-sm89 was built by tensorrt 10.9, this machine runs tensorrt 11.4.0",
            f"build one with 'powertrain engine {root} --target current'",
        ),
        Finding(
            "tiny",
            "problem",
            f"plan sm80 was built by tensorrt_rtx {rtx}, this machine runs tensorrt 11.4.0",
            f"build one with 'powertrain engine {root} --target current'",
        ),
        Finding("tiny", "ok", "plan sm89 runs on RTX 4090"),
    ]
    assert about(root, examine([root], probe=broken, gpus=lambda: NONE)) == [
        whole(root),
        *(
            Finding("tiny", "missing", f"plan {name} cannot run here: there is no GPU")
            for name in ("current-sm89", "sm80", "sm89")
        ),
    ]


def test_a_damaged_package(root: Path) -> None:
    size = (root / "ort/model.onnx").stat().st_size
    (root / "ort/model.onnx").write_bytes(b"")
    assert about(root, examine([root], probe=broken, gpus=lambda: NONE)) == [
        Finding(
            "tiny",
            "problem",
            f"tiny: 'ort/model.onnx' has 0 bytes, the manifest says {size}; rebuild it",
            "powertrain export MODEL",
        )
    ]


@pytest.mark.parametrize("left", ["ort", "trt"])
def test_a_package_with_one_graph(root: Path, left: str) -> None:
    package = package_at(root)
    for path in (root / ("trt" if left == "ort" else "ort")).iterdir():
        path.unlink()
    files = {
        name: info for name, info in package.manifest.files.items() if name.startswith((left, "golden", "selection"))
    }
    graphs = {left: package.manifest.graphs[left]}
    write_manifest(root, msgspec.structs.replace(package.manifest, files=files, graphs=graphs))
    both = "powertrain export MODEL --dialect ort,trt"
    assert (
        about(root, examine([root], probe=working, gpus=lambda: GpuReport((ADA,))))
        == {
            "ort": [
                whole(root),
                Finding("tiny", "missing", "no graph for TensorRT, so no plan can be built", both),
            ],
            "trt": [
                whole(root, "; the graph for TensorRT alone, runs on a GPU only"),
                Finding("tiny", "missing", "no plan built", f"powertrain engine {root} --target sm89"),
            ],
        }[left]
    )


@pytest.mark.parametrize(
    ("key", "providers", "gpus", "state", "text"),
    [
        ("optimum", ("cpu",), (), "ok", "whole, {size} MiB, written by Optimum; runs on the CPU"),
        ("ort", ("cuda",), (), "problem", "whole, {size} MiB; bfloat16, which runs on a GPU only, and there is none"),
        ("ort", ("cuda",), (ADA,), "ok", "whole, {size} MiB; bfloat16, runs on a GPU only"),
    ],
)
def test_other_kinds_of_packages(
    key: str, providers: tuple[str, ...], gpus: tuple[Gpu, ...], state: str, text: str, root: Path
) -> None:
    package = package_at(root)
    graph = msgspec.structs.replace(package.manifest.graphs["ort"], providers=providers, kv_dtype="bfloat16")
    graphs = {key: graph, "trt": package.manifest.graphs["trt"]}
    write_manifest(root, msgspec.structs.replace(package.manifest, graphs=graphs))
    found = about(root, examine([root], probe=working, gpus=lambda: GpuReport(gpus)))[0]
    assert (found.state, found.text) == (state, text.format(size=size_of(package)))


@pytest.mark.parametrize(("left", "lacks"), [("ort", False), ("trt", True), ("half", True)])
def test_a_package_for_gpus_that_cannot_be_checked_is_named(root: Path, left: str, lacks: bool) -> None:
    """It was made before there were golden rows; one for the CPU alone needs none."""
    package = package_at(root)
    files = {name: info for name, info in package.manifest.files.items() if name != "golden.bin"}
    (root / "golden.bin").unlink()
    graphs = dict(package.manifest.graphs)
    if left != "trt":
        del graphs["trt"]
        shutil.rmtree(root / "trt")
        files = {name: info for name, info in files.items() if not name.startswith("trt")}
    if left == "half":
        graphs["ort"] = msgspec.structs.replace(graphs["ort"], kv_dtype="float16", providers=("cpu", "cuda"))
    write_manifest(root, msgspec.structs.replace(package.manifest, files=files, graphs=graphs, golden=None))
    text = "holds no golden rows, without which no GPU serves it; it was made before there were any"
    found = Finding("tiny", "problem", text, f"powertrain export MODEL -o {root}")
    assert (found in examine([root], probe=working, gpus=lambda: GpuReport((ADA,)))) is lacks
    assert (replace(found, state="missing") in examine([root], probe=broken, gpus=lambda: NONE)) is lacks
    (root.parent / "tiny.toml").write_text("")
    fixes = [finding.fix for finding in examine([root], probe=broken, gpus=lambda: NONE) if finding.text == text]
    assert fixes == [f"powertrain export {root.parent / 'tiny.toml'} -o {root}"] * lacks


def test_a_machine_without_a_card_is_not_told_to_install_a_driver(tmp_path: Path) -> None:
    (tmp_path / "pci" / "0").mkdir(parents=True)
    (tmp_path / "pci" / "0" / "vendor").write_text("0x8086\n")
    assert examine([], probe=broken, gpus=lambda: NONE)[1] == Finding("gpu", "missing", "no NVIDIA GPU in this machine")
    (tmp_path / "pci" / "0" / "vendor").write_text("0x10de\n")
    assert examine([], probe=broken, gpus=lambda: NONE)[1] == NO_GPU


def test_one_library_that_works_makes_the_others_optional() -> None:
    def only_cuda(backend: Backend) -> ProbeResult:
        return working(backend) if backend is Backend.CUDA else broken(backend)

    found = {finding.topic: finding.state for finding in examine([], probe=only_cuda, gpus=lambda: GpuReport((ADA,)))}
    assert (found["cuda"], found["tensorrt"], found["tensorrt-rtx"]) == ("ok", "missing", "missing")


def test_the_command_prints_a_line_per_finding_and_its_fix(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    findings = [CPU, NO_GPU, Finding("cuda", "problem", "cuda [is] broken", "fix cuda")]
    monkeypatch.setattr("runtime.loading.doctor.examine", lambda _packages: findings)
    around = Surroundings(home=lambda: tmp_path / "models")
    result = CliRunner().invoke(doctor_command, [], obj=around)
    assert result.exit_code == 1  # for the problem; what is only missing would leave it 0
    assert result.output.splitlines() == [
        "ok      cpu: 4 cores, AVX2, AVX-512 VNNI, 12.5 GiB of memory available",
        "missing gpu: no driver",
        "        -> install one",
        "problem cuda: cuda [is] broken",
        "        -> fix cuda",
        f"missing {tmp_path / 'models'}: no package",
        "        -> powertrain export smollm2-135m-instruct",
    ]


def test_every_gpu_is_listed_with_its_number_and_its_uuid_and_what_is_wrong_beside() -> None:
    shared = Gpu(3, "GPU-aaaa", "NVIDIA GB10", "12.1", 0, 0, "")
    split = Gpu(2, "MIG-bbbb", "A100 MIG 3g.20gb", "8.0", 20 * 2**30, 0, "580.65")
    report = GpuReport((ADA, shared, split), "nvidia-smi says: GPU 1 is lost", "restart the machine")
    found = [finding for finding in examine([], probe=working, gpus=lambda: report) if finding.topic == "gpu"]
    assert found == [
        GPU,
        Finding(
            "gpu",
            "ok",
            "3: NVIDIA GB10, GPU-aaaa, compute capability 12.1 (sm121), driver unseen, "
            "memory that nobody tells the size of",
        ),
        Finding(
            "gpu",
            "ok",
            "2: A100 MIG 3g.20gb, MIG-bbbb, compute capability 8.0 (sm80), driver 580.65, 20.0 GiB of memory",
        ),
        Finding("gpu", "problem", "nvidia-smi says: GPU 1 is lost", "restart the machine"),
    ]
