"""GPTQ and AWQ folders: graphs hold the checkpoint's own codes and scales, and what has no exact form is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import numpy_helper
from safetensors.numpy import load_file, save_file

from export.checkpoint.precision_policy import plan_from_name
from export.checkpoint.quantized_tensor import stored_formats
from export.errors import ExportError, UnsupportedError
from export.graph.decoder import emit_decoder
from export.graph.trt.dialect import OPSET, TrtDialect
from export.graph.writer import GRAPH_FILE, GraphWriter
from export.package.builder import build_package
from export.progress import SilentReporter
from export.source.hf.checkpoint import HfCheckpoint
from export.source.recipe import FolderSource, QualityLimits, Recipe
from tests.export.graph_runs import GraphRun, write_graph
from tests.export.reference import reference_logits
from tests.export.tiny_models import tiny_config, tiny_input_ids, tiny_tensors, write_tiny_folder

Arrays = dict[str, npt.NDArray[Any]]
AWQ_ORDER = [0, 2, 4, 6, 1, 3, 5, 7]
GPTQ: dict[str, Any] = {"quant_method": "gptq", "bits": 4, "group_size": 32, "sym": True, "desc_act": False}
AWQ: dict[str, Any] = {"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemm", "zero_point": True}


def pack_rows(codes: npt.NDArray[Any], bits: int, order: list[int] | None = None) -> npt.NDArray[np.int32]:
    """[n, m] -> int32 [n / pack, m]: word by word, with Python's integers."""
    pack = 32 // bits
    order = order or list(range(pack))
    words = np.zeros((len(codes) // pack, codes.shape[1]), np.uint32)
    for (row, column), _ in np.ndenumerate(words):
        parts = [int(codes[row * pack + place, column]) << (bits * i) for i, place in enumerate(order)]
        words[row, column] = sum(parts)
    return words.view(np.int32)


def write_folder(folder: Path, quantization: dict[str, Any], name: str = "qwen2") -> dict[str, npt.NDArray[np.float32]]:
    """A folder with every projection packed; returns module -> the float32 weights [out, in] that it stands for."""
    random, bits, is_awq = np.random.default_rng(3), quantization["bits"], quantization["quant_method"] == "awq"
    stored_zero = 2 ** (bits - 1) - (0 if is_awq or quantization.get("checkpoint_format") == "gptq_v2" else 1)
    tensors: Arrays = {}
    values = {}
    for key, array in tiny_tensors(tiny_config(name)).items():
        if "_proj.weight" not in key:
            tensors[key] = array
            continue
        stem, (num_out, num_in) = key.removesuffix(".weight"), array.shape
        group = num_in if quantization["group_size"] == -1 else quantization["group_size"]
        codes = random.integers(0, 2**bits, (num_in, num_out))
        scales = (random.uniform(0.016, 0.48, (num_in // group, num_out)) / 2**bits).astype(np.float16)
        zeros = np.full((num_in // group, num_out), stored_zero)
        order = AWQ_ORDER if is_awq else None
        tensors[stem + ".qweight"] = pack_rows(codes.T, bits, order).T.copy() if is_awq else pack_rows(codes, bits)
        tensors[stem + ".qzeros"] = pack_rows(zeros.T, bits, order).T.copy()
        tensors[stem + ".scales"] = scales
        if not is_awq:
            tensors[stem + ".g_idx"] = (np.arange(num_in) // group).astype(np.int32)
        signed = (codes - 2 ** (bits - 1)).astype(np.float32)
        values[stem] = (signed * scales.astype(np.float32).repeat(group, axis=0)).T
    write_tiny_folder(folder, name, tensors=tensors)
    change_quantization(folder, quantization)
    return values


def change_quantization(folder: Path, quantization: dict[str, Any]) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"quantization_config": quantization}))


def fused(values: dict[str, npt.NDArray[np.float32]], name: str) -> npt.NDArray[np.float32]:
    """What the graph's matrix of this name must hold."""
    layer, role = name.split(".")[1:3]
    modules = {"qkv": ["self_attn.q", "self_attn.k", "self_attn.v"], "o": ["self_attn.o"]}
    modules |= {"gate_up": ["mlp.gate", "mlp.up"], "down": ["mlp.down"]}
    names = {"qkv": "self_attn.qkv", "gate_up": "mlp.gate_up"}
    whole = f"model.layers.{layer}.{names.get(role, '-')}_proj"
    parts = [whole] if whole in values else [f"model.layers.{layer}.{module}_proj" for module in modules[role]]
    return np.concatenate([values[part] for part in parts])


LAYOUTS = [
    GPTQ,
    GPTQ | {"bits": 8},
    GPTQ | {"checkpoint_format": "gptq_v2", "desc_act": True},
    GPTQ | {"group_size": -1},
    AWQ,
]


@pytest.mark.parametrize("quantization", LAYOUTS, ids=["gptq4", "gptq8", "gptq_v2", "gptq_column", "awq"])
@pytest.mark.parametrize("name", ["qwen2", "phi3"])
def test_the_ort_graph_holds_the_checkpoint_s_weights(quantization: dict[str, Any], name: str, tmp_path: Path) -> None:
    values = write_folder(tmp_path / "hf", quantization, name)
    checkpoint = HfCheckpoint(tmp_path / "hf")
    plan = plan_from_name("int8").keeping(stored_formats(checkpoint))
    path = write_graph(checkpoint, plan, tmp_path / "ort")
    graph = onnx.load(str(path)).graph
    arrays = {item.name: numpy_helper.to_array(item) for item in graph.initializer}
    bits, seen = quantization["bits"], 0
    for node in graph.node:
        if node.op_type != "MatMulNBits" or not node.output[0].startswith("layers."):
            continue
        packed, scales = arrays[node.input[1]], arrays[node.input[2]]
        nibbles = np.stack([packed & 15, packed >> 4], axis=-1).reshape(*packed.shape[:2], -1)
        codes = (nibbles if bits == 4 else packed).astype(np.float32) - 2 ** (bits - 1)
        expected = fused(values, node.name)
        assert np.array_equal((codes * scales.reshape(*codes.shape[:2], 1)).reshape(expected.shape), expected)
        seen += 1
    assert seen == 2 * 4
    logits = GraphRun(path, checkpoint.spec)(tiny_input_ids()[None], [0])
    expected_logits = reference_logits(checkpoint, tiny_input_ids())
    assert np.abs(logits - expected_logits).max() < 0.05 * np.abs(expected_logits).max() + 0.05


@pytest.mark.parametrize("quantization", LAYOUTS, ids=["gptq4", "gptq8", "gptq_v2", "gptq_column", "awq"])
def test_the_trt_graph_holds_the_checkpoint_s_weights(quantization: dict[str, Any], tmp_path: Path) -> None:
    values = write_folder(tmp_path / "hf", quantization)
    checkpoint = HfCheckpoint(tmp_path / "hf")
    plan = plan_from_name("fp16").keeping(stored_formats(checkpoint))
    with GraphWriter(tmp_path / "trt") as writer:
        emit_decoder(checkpoint, TrtDialect(checkpoint.spec, writer, plan, 64))
        writer.save(OPSET)
    graph = onnx.load(str(tmp_path / "trt" / GRAPH_FILE)).graph
    arrays = {item.name: numpy_helper.to_array(item) for item in graph.initializer}
    nodes = [node for node in graph.node if node.op_type == "DequantizeLinear"]
    assert len(nodes) == 2 * 4
    for node in nodes:
        codes, scales = (arrays[name].astype(np.float32) for name in node.input)
        weights = codes * scales.repeat(len(codes) // len(scales), axis=0)
        assert np.array_equal(weights.T, fused(values, node.name))


def set_part(suffix: str, change: Callable[[npt.NDArray[Any]], None]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        change(tensors["model.layers.1.mlp.down_proj." + suffix])
        save_file(tensors, folder / "model.safetensors")

    return apply


@pytest.mark.parametrize(
    ("quantization", "suffix", "value", "words"),
    [
        (GPTQ, "qzeros", 0x77777776, "zero points from 7 to 8"),
        (AWQ, "qzeros", 0x78888888, "zero points from 7 to 8"),
        (GPTQ, "scales", -0.5, "a scale of -0.5"),
        (AWQ, "scales", 0.0, "a scale of 0"),
        (GPTQ, "g_idx", 2, "act-order"),
        (GPTQ, "scales", np.nan, "NaN"),
    ],
)
def test_matrices_without_an_exact_form_are_refused(
    quantization: dict[str, Any], suffix: str, value: float, words: str, tmp_path: Path
) -> None:
    write_folder(tmp_path, quantization)
    set_part(suffix, lambda part: part.reshape(-1).__setitem__(0, value))(tmp_path)
    with pytest.raises(ExportError, match=words):
        stored_formats(HfCheckpoint(tmp_path))


@pytest.mark.parametrize(
    ("quantization", "words"),
    [
        ({"quant_method": "bitsandbytes"}, "'bitsandbytes'"),
        (GPTQ | {"sym": False}, "sym=false"),
        (GPTQ | {"bits": 3}, "gptq with 3 bits"),
        (GPTQ | {"group_size": 48}, "group_size 48"),
        (GPTQ | {"checkpoint_format": "marlin"}, "'marlin'"),
        (AWQ | {"version": "gemv"}, "'gemv'"),
    ],
)
def test_other_layouts_are_refused(quantization: dict[str, Any], words: str, tmp_path: Path) -> None:
    write_tiny_folder(tmp_path, "llama")
    change_quantization(tmp_path, quantization)
    with pytest.raises(UnsupportedError, match=words) as caught:
        HfCheckpoint(tmp_path)
    assert "symmetric GPTQ of 4 or 8 bits" in str(caught.value)


def test_a_package_says_what_it_took_over(tmp_path: Path) -> None:
    write_folder(tmp_path / "hf", GPTQ)
    recipe = Recipe(name="tiny", source=FolderSource(path=str(tmp_path / "hf")), quality=QualityLimits())
    manifest = build_package(recipe, tmp_path, tmp_path / "out", SilentReporter()).manifest
    precision = manifest.graphs["ort"].precision
    assert precision["mlp"] == precision["attention"] == "int4 block 32"
    assert precision["embedding"] == "int8 block 64"
    assert precision["as in the checkpoint"] == "codes and scales of 8 matrices"
    with pytest.raises(UnsupportedError, match="no exact bfloat16 form"):
        write_graph(
            HfCheckpoint(tmp_path / "hf"),
            plan_from_name("bf16").keeping(stored_formats(HfCheckpoint(tmp_path / "hf"))),
            tmp_path / "bf16",
        )
