"""Plans really compiled, ahead of time and without a GPU, and what the parsed networks and the plans show."""

from __future__ import annotations

import io
import logging
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from rich.console import Console

from export.graph.ort.dialect import OPSET
from export.graph.selection import write_selection_graph
from export.graph.trt.slot_length import with_slot_rows
from export.plan.builder import BuiltPlan, _configure, build_plan
from export.plan.estimate import check_room, estimate_build
from export.plan.library import Library, load_library, make_logger
from export.plan.network import check_network, parse_graph, parse_head
from export.plan.progress import PhaseTree, shown_progress
from export.plan.settings import PlanSettings
from export.plan.targets import Target, parse_targets
from runtime.errors import PlanError
from runtime.loading.gpu import Gpu, GpuReport
from runtime.package.graph_io import cache_names
from runtime.package.graph_profiles import profile_shapes
from tests.export.random_checkpoint import ARCHITECTURES, CAPACITY, WIDE, write_trt
from tests.paths import ROOT

pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is published for Linux on x86-64 only")

SETTINGS = PlanSettings(max_slots=4, prefill_tokens=32)
ONE_LAYER = replace(ARCHITECTURES["llama"], num_layers=1, layers=ARCHITECTURES["llama"].layers[:1])


@pytest.fixture(scope="module")
def library() -> Library:
    return load_library("tensorrt_rtx")


def build(
    path: Path, library: Library, sm: str = "sm89", settings: PlanSettings = SETTINGS, *, capacity: int = CAPACITY
) -> BuiltPlan:
    return build_plan(path, capacity, Target(sm, sm, library), settings, lambda _fraction: None)


@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_every_architecture_compiles_as_it_was_meant(name: str, library: Library, tmp_path: Path) -> None:
    spec = ARCHITECTURES[name]
    # The graph is exported for longer slots than the plan gets.
    graph = write_trt(spec, tmp_path, "bf16" if name == "gemma3" else "fp16", max_model_len=3 * CAPACITY)
    built = build(graph, library)
    facts = built.facts
    assert len(built.data) > 1_000_000
    assert facts.cache_pairs == tuple(cache_names(2))
    assert facts.cache_shape == (spec.num_kv_heads, CAPACITY, spec.head_dim)
    assert facts.cache_dtype == ("BF16" if name == "gemma3" else "HALF")
    assert facts.num_attention == (0 if spec.attention_softcap else 2)  # a softcapped one is spelled out


@pytest.mark.parametrize("sm", ["sm80", "sm86", "sm120"])
def test_other_targets_compile(sm: str, library: Library, tmp_path: Path) -> None:
    assert len(build(write_trt(ONE_LAYER, tmp_path, "int4"), library, sm).data) > 1_000_000


def test_integer_weights_stay_packed(library: Library, tmp_path: Path) -> None:
    """Weights are 31 MiB of the fp16 plan; what is not weights is equal in all three."""
    spec = replace(WIDE, num_layers=4, layers=WIDE.layers * 2)
    sizes, graphs = {}, {}
    for precision in ("fp16", "int8", "int4"):
        path = write_trt(spec, tmp_path / precision, precision)
        built = build(path, library)
        sizes[precision] = len(built.data)
        graphs[precision] = sum(file.stat().st_size for file in path.parent.iterdir())
        assert built.facts.num_dequantize == (0 if precision == "fp16" else 4 * 4 + 1)
    for precision in ("int8", "int4"):
        saved, expected = sizes["fp16"] - sizes[precision], graphs["fp16"] - graphs[precision]
        assert saved > 0.85 * expected, (precision, sizes, graphs)


@pytest.mark.parametrize(("precision", "sm", "num_dequantize"), [("fp8", "sm89", 5), ("nvfp4", "sm120", 4 * 2 + 1)])
def test_floating_point_codes_stay_packed(
    precision: str, sm: str, num_dequantize: int, library: Library, tmp_path: Path
) -> None:
    """What is not weights takes 3.4 MB of such a plan in fp16, 4.8 with nvfp4's kernels; a wider form of the weights
    would take 3.7 MB more (fp8 in fp16), or 2.2 (nvfp4 in fp8)."""
    path = write_trt(replace(WIDE, num_layers=1, layers=WIDE.layers[:1]), tmp_path, precision)
    built = build(path, library, sm)
    assert built.facts.num_dequantize == num_dequantize
    assert len(built.data) < 5_500_000 + sum(file.stat().st_size for file in path.parent.iterdir())


def test_the_profiles_are_decode_and_prefill(library: Library) -> None:
    decode, prefill = profile_shapes(8, 100, {"past": (2, 64, 16)})
    assert decode == {
        "input_ids": ((1, 1), (4, 1), (8, 1)),
        "write_indices": ((1,), (4,), (8,)),
        "logits_indices": ((1,), (4,), (8,)),
        "past": ((1, 2, 64, 16), (4, 2, 64, 16), (8, 2, 64, 16)),
    }
    assert prefill == {
        "input_ids": ((1, 1), (1, 100), (1, 100)),
        "write_indices": ((1,), (1,), (1,)),
        "logits_indices": ((1,), (1,), (16,)),
        "past": ((1, 2, 64, 16), (1, 2, 64, 16), (1, 2, 64, 16)),
    }


def changed(path: Path, folder: Path, change: Any) -> Path:
    """A copy of a graph with its nodes changed, weights inside."""
    model = onnx.load(path)
    change(model.graph)
    folder.mkdir()
    onnx.save(model, folder / "model.onnx")
    return folder / "model.onnx"


def node_of(graph: onnx.GraphProto, op: str) -> onnx.NodeProto:
    found: onnx.NodeProto = next(node for node in graph.node if node.op_type == op)
    return found


def test_a_causal_mask_that_the_parser_would_misread_is_caught(library: Library, tmp_path: Path) -> None:
    path = write_trt(ARCHITECTURES["llama"], tmp_path / "good", "fp16")

    def change(graph: onnx.GraphProto) -> None:
        attention = node_of(graph, "Attention")
        attention.attribute.append(helper.make_attribute("is_causal", 1))
        del attention.input[3]

    with pytest.raises(PlanError, match=r"attention .* got a causal mask \(UPPER_LEFT\)"):
        build(changed(path, tmp_path / "bad", change), library)


def test_an_attention_without_its_mask_is_caught(library: Library, tmp_path: Path) -> None:
    """``nonpad_kv_seqlen`` in place of the mask parses and builds, and means nothing to TensorRT."""
    path = write_trt(ARCHITECTURES["llama"], tmp_path / "good", "fp16")

    def change(graph: onnx.GraphProto) -> None:
        attention = node_of(graph, "Attention")
        attention.input[3] = ""
        attention.input.extend(["", "", "write_indices"])

    with pytest.raises(PlanError, match="lost its mask"):
        build(changed(path, tmp_path / "bad", change), library)


def test_a_cache_written_elsewhere_is_caught(library: Library, tmp_path: Path) -> None:
    path = write_trt(ARCHITECTURES["llama"], tmp_path / "good", "fp16")

    def change(graph: onnx.GraphProto) -> None:
        node = node_of(graph, "TensorScatter")
        shifted = helper.make_node("Add", ["write_indices", "one"], ["shifted"])
        node.input[2] = "shifted"
        graph.node.insert(list(graph.node).index(node), shifted)

    with pytest.raises(PlanError, match=r"cache update 'present\.0\.key' writes at 'shifted'"):
        build(changed(path, tmp_path / "bad", change), library)


def test_a_contributed_operator_is_refused_by_the_parser(library: Library, tmp_path: Path) -> None:
    tensors = [helper.make_tensor_value_info(name, TensorProto.FLOAT16, [4, 64]) for name in ("x", "y")]
    codes = helper.make_tensor("w", TensorProto.UINT8, [64, 2, 16], np.zeros(2048, np.uint8).tobytes(), raw=True)
    scales = helper.make_tensor("s", TensorProto.FLOAT16, [64, 2], np.ones(128, np.float16).tobytes(), raw=True)
    node = helper.make_node(
        "MatMulNBits", ["x", "w", "s"], ["y"], domain="com.microsoft", K=64, N=64, bits=4, block_size=32
    )
    graph = helper.make_graph([node], "g", tensors[:1], tensors[1:], [codes, scales])
    imports = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=10), tmp_path / "model.onnx")
    with pytest.raises(PlanError, match=r"tensorrt_rtx .* cannot parse model\.onnx"):
        build(tmp_path / "model.onnx", library)


def test_float32_is_refused_with_the_precisions_that_work(library: Library, tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="no fused attention in float32; export with --precision fp16, bf16, int8"):
        build(write_trt(ARCHITECTURES["llama"], tmp_path), library)


def test_settings_that_the_cache_cannot_hold_are_refused(library: Library, tmp_path: Path) -> None:
    path = write_trt(ARCHITECTURES["llama"], tmp_path, "fp16")
    with pytest.raises(PlanError, match="--prefill-tokens 65 is not possible for this graph; choose 1 to 64"):
        build(path, library, settings=PlanSettings(prefill_tokens=65))
    with pytest.raises(PlanError, match="no timing cache"):
        build(path, library, settings=replace(SETTINGS, timing_cache=tmp_path / "cache"))


def test_a_build_reports_progress_to_the_end(library: Library, tmp_path: Path) -> None:
    seen: list[float] = []
    path = write_trt(ONE_LAYER, tmp_path, "fp16")
    build_plan(path, CAPACITY, Target("sm89", "sm89", library), SETTINGS, seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == 1.0
    assert len({round(fraction, 1) for fraction in seen}) >= 4


def test_a_slot_that_no_fused_kernel_reaches_compiles(library: Library, tmp_path: Path) -> None:
    """Slots of 32,768 rows: the scores of a chunk lie in scratch memory, which shows."""
    spec = replace(ARCHITECTURES["llama"], max_positions=32768)
    built = build(write_trt(spec, tmp_path, "fp16", max_model_len=32768), library, capacity=32768)
    assert built.facts.cache_shape == (2, 32768, 16)
    assert built.scratch_bytes > spec.num_heads * SETTINGS.prefill_tokens * 32768 * 2


def test_a_graph_of_one_slot_length_gets_no_other(library: Library, tmp_path: Path) -> None:
    path = write_trt(ARCHITECTURES["llama"], tmp_path, "fp16")
    path.write_bytes(with_slot_rows(path, 128))
    with pytest.raises(PlanError, match="slots have 128 rows and no other number; export the package again"):
        build(path, library)


def test_a_plan_allocates_nothing_of_its_own(library: Library) -> None:
    trt = library.module
    config = trt.Builder(make_logger(library)).create_builder_config()
    _configure(library, config, SETTINGS, Target("sm89", "sm89", library))
    assert config.get_flag(trt.BuilderFlag.REQUIRE_USER_ALLOCATION)


def test_the_scratch_memory_is_read_from_the_builders_words(library: Library) -> None:
    logger, info = make_logger(library), library.module.ILogger.Severity.INFO
    for line in ("Total Activation Memory: 200 bytes", "Total Activation Memory: 3000 bytes", "Total Weights: 9000"):
        logger.log(info, line)
    logger.log(info, "Total Activation Memory: 1000 bytes")
    assert logger.scratch_bytes == 3000  # of the profile that needs the most


def test_progress_elsewhere_than_a_terminal_is_a_line_per_tenth() -> None:
    out = io.StringIO()
    with shown_progress(Console(file=out), "Building sm89") as report:
        for fraction in (0.01, 0.11, 0.12, 0.35, 1.0):
            report(fraction)
    assert out.getvalue().splitlines() == [
        "Building sm89",
        "Building sm89: 10 %",
        "Building sm89: 30 %",
        "Building sm89: 100 %",
    ]


def test_nested_phases_fold_into_one_fraction() -> None:
    tree = PhaseTree()
    tree.start("build", None, 4)
    assert tree.fraction == 0.0
    tree.step("build", 0)
    tree.start("optimize", "build", 2)
    tree.step("optimize", 0)
    assert tree.fraction == 0.25 + 0.25 * 0.5
    tree.finish("optimize")
    tree.step("build", 1)
    assert tree.fraction == 0.5


def test_ctrl_c_ends_a_build_and_leaves_nothing(tmp_path: Path) -> None:
    spec = replace(WIDE, num_layers=12, layers=WIDE.layers * 6)
    write_trt(spec, tmp_path, "int4", max_model_len=256)
    script = (
        "import sys; from pathlib import Path; from export.plan.builder import build_plan;"
        "from export.plan.library import load_library; from export.plan.targets import Target;"
        "from export.plan.settings import PlanSettings;"
        "target = Target('sm89', 'sm89', load_library('tensorrt_rtx'));"
        "report = lambda fraction: print('step', flush=True);"
        "build_plan(Path(sys.argv[1]), 256, target, PlanSettings(prefill_tokens=64), report)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "model.onnx")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "step\n"
        begin = time.monotonic()
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert "KeyboardInterrupt" in errors
    assert time.monotonic() - begin < 30
    assert [file.name for file in tmp_path.iterdir() if file.suffix == ".plan"] == []


def test_a_build_that_does_not_fit_is_refused_in_numbers(tmp_path: Path) -> None:
    estimate = estimate_build(1000 * 2**20)
    assert estimate.memory_bytes == 4900 * 2**20
    with pytest.raises(PlanError, match=r"needs about 4\.8 GiB of memory, 2\.0 GiB are available"):
        check_room(estimate, tmp_path, available_bytes=2 * 2**30)
    check_room(estimate_build(2**20), tmp_path, available_bytes=2 * 2**30)


class TestTargets:
    """What ``--target`` may say."""

    ADA = Gpu(0, "GPU-00000", "RTX 4090", "8.9", 24 * 2**30, 20 * 2**30, "595.10")
    HOPPER = Gpu(0, "GPU-00002", "H100", "9.0", 80 * 2**30, 80 * 2**30, "595.10")

    def test_named_targets_need_no_gpu(self) -> None:
        targets = parse_targets("sm80, SM89,sm80")
        assert [(target.name, target.compute_capability) for target in targets] == [("sm80", "8.0"), ("sm89", "8.9")]

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            ("sm90", "cannot build for sm90, it knows sm75, sm80, sm86, sm89, sm120, sm121"),
            ("ada", "target 'ada' is no GPU"),
            (" , ", "no target was given"),
        ],
    )
    def test_what_cannot_be_built_is_refused(self, words: str, message: str) -> None:
        with pytest.raises(PlanError, match=message):
            parse_targets(words)

    def test_current_needs_a_gpu(self) -> None:
        with pytest.raises(PlanError, match="needs a GPU in this machine: no driver; install one, or name targets"):
            parse_targets("current", gpus=lambda: GpuReport((), "no driver", "install one"))

    def test_current_on_a_known_gpu_is_the_named_target(self, library: Library) -> None:
        (target,) = parse_targets("current", "tensorrt_rtx", gpus=lambda: GpuReport((self.ADA,)))
        assert (target.name, target.sm, target.driver) == ("sm89", "sm89", "595.10")

    def test_current_on_a_gpu_that_rtx_does_not_know_asks_for_the_classic_library(self) -> None:
        with pytest.raises(
            PlanError, match=r"cannot build for H100 \(sm90\).*install the tensorrt package: .*tensorrt>=11"
        ):
            parse_targets("current", "tensorrt_rtx", gpus=lambda: GpuReport((self.HOPPER,)))

    def test_the_classic_library_cannot_build_ahead(self) -> None:
        with pytest.raises(PlanError, match="tensorrt builds only for the GPU in the machine"):
            parse_targets("sm89", "tensorrt")


def test_a_missing_library_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(PlanError, match=r"tensorrt is not installed; .* 'tensorrt>=11\.0,<12' 'cuda-bindings"):
        load_library("tensorrt")


def test_tensorrts_words_go_to_the_log(library: Library, caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    with caplog.at_level(logging.DEBUG, logger="powertrain.tensorrt"):
        logger = make_logger(library)
        network = library.module.Builder(logger).create_network(0)
        parse_graph(
            library, network, logger, write_trt(ARCHITECTURES["llama"], tmp_path, "fp16"), CAPACITY, form="mask"
        )
        assert check_network(library, network, "mask").num_attention == 2
    assert any("Int64 binding" in record.message for record in caplog.records)


def test_a_head_that_a_session_could_not_bind_is_refused(library: Library, tmp_path: Path) -> None:
    logger = make_logger(library)
    builder = library.module.Builder(logger)
    whole, maskless = (
        write_selection_graph(tmp_path / str(has_mask), 97, OPSET, has_mask=has_mask) for has_mask in (True, False)
    )
    network = builder.create_network(0)
    parse_head(library, network, logger, whole)
    assert network.get_output(0).name == "token"
    with pytest.raises(
        PlanError, match=r"the selection head's 'mask' is missing, a session binds \(\(-1, 16\), 'UINT8'\)"
    ):
        parse_head(library, builder.create_network(0), logger, maskless)
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no graph")
    with pytest.raises(PlanError, match="cannot parse the selection head: "):
        parse_head(library, builder.create_network(0), logger, broken)
