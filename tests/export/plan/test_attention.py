"""What attention is told of a cache: compiled for real in every form, and each way to tell it wrongly caught."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper

from export.checkpoint.spec import DecoderSpec, LayerSpec
from export.graph.trt.causal_masks import CAUSAL_MASK, without_causal_masks
from export.graph.trt.slot_length import with_slot_rows
from export.plan.attention import attentions, supported_form
from export.plan.builder import BuiltPlan, build_plan
from export.plan.library import Library, load_library, make_logger
from export.plan.network import check_network, parse_graph
from export.plan.settings import PlanSettings
from export.plan.targets import Target
from runtime.errors import PlanError
from runtime.package.attention_form import DEFAULT_ATTENTION, AttentionForm
from tests.export.random_checkpoint import ARCHITECTURES, CAPACITY, write_trt

pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is published for Linux on x86-64 only")

MIXED = replace(ARCHITECTURES["llama"], layers=(LayerSpec(window=7), LayerSpec()))
"""A sliding window, which only a mask can say, and an ordinary attention."""
ONE_LAYER = replace(MIXED, num_layers=1, layers=(LayerSpec(),))


@pytest.fixture(scope="module")
def library() -> Library:
    return load_library("tensorrt_rtx")


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_trt(MIXED, tmp_path_factory.mktemp("mixed"), "fp16")


class Parsed:
    """A network and what must live as long as it does."""

    def __init__(self, library: Library, graph: Path, form: AttentionForm) -> None:
        self.logger = make_logger(library)
        self.builder = library.module.Builder(self.logger)
        self.network = self.builder.create_network(0)
        parse_graph(library, self.network, self.logger, graph, CAPACITY, form=form)
        self.attentions = attentions(library, self.network)


def build(graph: Path, library: Library, sm: str, form: AttentionForm) -> BuiltPlan:
    settings = PlanSettings(max_slots=4, prefill_tokens=32, attention=form)
    return build_plan(graph, CAPACITY, Target(sm, sm, library), settings, lambda _fraction: None)


def test_each_form_is_what_attention_gets(library: Library, graph: Path) -> None:
    told: dict[str, list[tuple[str, str, str]]] = {}
    for form in get_args(AttentionForm):
        parsed = Parsed(library, graph, form)
        assert check_network(library, parsed.network, form).num_attention == 2
        told[form] = [
            (
                getattr(one.mask, "name", ""),
                one.causal_kind.name,
                one.key_value_lengths.dtype.name + str(tuple(one.key_value_lengths.shape))
                if one.key_value_lengths
                else "",
            )
            for one in parsed.attentions
        ]
    assert told == {
        "mask": [("mask.window_7", "NONE", ""), ("mask.causal", "NONE", "")],
        "mask+lengths": [("mask.window_7", "NONE", "INT32(-1,)"), ("mask.causal", "NONE", "INT32(-1,)")],
        "lengths": [("mask.window_7", "NONE", "INT32(-1,)"), ("", "LOWER_RIGHT", "INT32(-1,)")],
    }
    assert DEFAULT_ATTENTION == "mask+lengths"


@pytest.mark.parametrize(("sm", "spec"), [("sm80", ONE_LAYER), ("sm89", MIXED), ("sm120", ONE_LAYER)])
def test_a_plan_without_causal_masks_compiles(sm: str, spec: DecoderSpec, library: Library, tmp_path: Path) -> None:
    """The default form is what every other test of plans compiles, for these targets and more."""
    built = build(write_trt(spec, tmp_path, "fp16"), library, sm, "lengths")
    assert len(built.data) > 1_000_000
    assert built.facts.num_attention == spec.num_layers


def test_lengths_beside_a_mask_change_no_kernel(library: Library, tmp_path: Path) -> None:
    """TensorRT for RTX 1.7.1 takes them and leaves them out. When this fails, docs/gpu.md has something new to say."""
    path = write_trt(ONE_LAYER, tmp_path, "fp16")
    masked, told = (build(path, library, "sm89", form) for form in ("mask", "mask+lengths"))
    assert len(masked.data) == pytest.approx(len(told.data), rel=0.01)
    masked_kernels, told_kernels = (set(re.findall(rb"fqn=(\S+)", bytes(plan.data))) for plan in (masked, told))
    assert any(b"_mha_" in kernel for kernel in masked_kernels)
    if library.version.startswith("1.7.1"):
        assert masked_kernels == told_kernels


def test_the_diagonal_says_what_the_mask_says(tmp_path: Path) -> None:
    """Of the mask that the graph computes: ``j <= i + lengths - T``, and no token sees a row beyond the lengths.

    Eight tokens of which three were a prompt's last, and five padding: what these write is within the lengths too.
    """
    path = write_trt(MIXED, tmp_path)
    model = onnx.load_model_from_string(with_slot_rows(path, CAPACITY))
    for name in (CAUSAL_MASK, "mask.window_7"):
        model.graph.output.append(helper.make_tensor_value_info(name, onnx.TensorProto.BOOL, None))
    onnx.save(model, tmp_path / "with_masks.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "with_masks.onnx", providers=["CPUExecutionProvider"])
    tokens, starts = 8, np.array([0, 5, CAPACITY - 8])
    inputs: dict[str, Any] = {
        one.name: np.zeros([3 if isinstance(dim, str) else dim for dim in one.shape], np.float32)
        for one in session.get_inputs()
        if one.name.startswith("past")
    }
    inputs |= {
        "input_ids": np.ones((3, tokens), np.int64),
        "write_indices": starts,
        "logits_indices": np.zeros(1, np.int64),
    }
    causal, window = session.run([CAUSAL_MASK, "mask.window_7"], inputs)
    lengths = starts + tokens
    rows, queries = np.arange(CAPACITY), np.arange(tokens)[:, None]
    diagonal = rows <= queries + (lengths - tokens)[:, None, None]
    assert np.array_equal(causal[:, 0], diagonal)
    assert not (window & ~causal).any()
    assert [int(seen.nonzero()[-1].max()) + 1 for seen in causal] == lengths.tolist()
    assert lengths.max() <= CAPACITY


def test_only_ordinary_attention_loses_its_mask(graph: Path) -> None:
    bare, names = without_causal_masks(with_slot_rows(graph, CAPACITY))
    nodes = {node.name: node for node in onnx.load_model_from_string(bare).graph.node if node.op_type == "Attention"}
    assert names == {"layers.1.attention.heads"}
    assert [len(nodes[f"layers.{layer}.attention.heads"].input) for layer in (0, 1)] == [4, 3]


def test_a_network_without_attention_gets_no_layers(library: Library, tmp_path: Path) -> None:
    """Gemma 2's is spelled out in matrix products, which take no lengths."""
    path = write_trt(ARCHITECTURES["gemma2"], tmp_path, "fp16")
    plain, told = (Parsed(library, path, form) for form in ("mask", "mask+lengths"))
    assert plain.network.num_layers == told.network.num_layers
    assert check_network(library, told.network, "mask+lengths").num_attention == 0


@pytest.mark.parametrize(
    ("built", "wanted", "message"),
    [
        (
            "mask",
            "mask+lengths",
            r"attention 'layers\.0\.attention\.heads' has no lengths; build with --attention mask",
        ),
        ("mask", "lengths", r"'layers\.0\.attention\.heads' has no lengths"),
        ("lengths", "mask+lengths", r"'layers\.1\.attention\.heads' got a causal mask \(LOWER_RIGHT\)"),
        ("mask+lengths", "lengths", r"'layers\.1\.attention\.heads' kept its mask"),
        ("mask+lengths", "mask", r"'layers\.0\.attention\.heads' has lengths that were not asked for"),
        ("lengths", "mask", r"'layers\.0\.attention\.heads' has lengths that were not asked for"),
    ],
)
def test_another_form_than_was_asked_for_is_caught(
    library: Library, graph: Path, built: AttentionForm, wanted: AttentionForm, message: str
) -> None:
    with pytest.raises(PlanError, match=message):
        check_network(library, Parsed(library, graph, built).network, wanted)


def test_a_last_attention_without_lengths_is_caught(library: Library, graph: Path) -> None:
    parsed = Parsed(library, graph, "mask+lengths")
    parsed.attentions[1].key_value_lengths = None
    with pytest.raises(PlanError, match=r"'layers\.1\.attention\.heads' has no lengths"):
        check_network(library, parsed.network, "mask+lengths")


def test_a_window_that_lost_its_mask_is_caught_in_the_form_without_masks(library: Library, tmp_path: Path) -> None:
    path = write_trt(MIXED, tmp_path, "fp16")
    model = onnx.load(path)
    del next(node for node in model.graph.node if node.op_type == "Attention").input[3]
    onnx.save(model, path)
    with pytest.raises(PlanError, match=r"'layers\.0\.attention\.heads' lost its mask"):
        check_network(library, Parsed(library, path, "lengths").network, "lengths")


Wrong = Callable[[ModuleType, Any, dict[str, Any]], Any]


def number(trt: ModuleType, network: Any, tensor: Any, axis: int) -> Any:
    shape = network.add_shape(tensor).get_output(0)
    return network.add_slice(shape, (axis,), (1,), (1,)).get_output(0)


def total(network: Any, first: Any, second: Any, operation: Any) -> Any:
    return network.add_elementwise(first, second, operation).get_output(0)


WRONG: dict[str, Wrong] = {
    "the first row alone": lambda _trt, _network, inputs: inputs["write_indices"],
    "another input's rows": lambda trt, network, inputs: total(
        network,
        inputs["logits_indices"],
        number(trt, network, inputs["input_ids"], 1),
        trt.ElementWiseOperation.SUM,
    ),
    "the batch's size": lambda trt, network, inputs: total(
        network, inputs["write_indices"], number(trt, network, inputs["input_ids"], 0), trt.ElementWiseOperation.SUM
    ),
    "another input's size": lambda trt, network, inputs: total(
        network,
        inputs["write_indices"],
        number(trt, network, inputs["past_key_values.0.key"], 1),
        trt.ElementWiseOperation.SUM,
    ),
    "a difference": lambda trt, network, inputs: total(
        network, inputs["write_indices"], number(trt, network, inputs["input_ids"], 1), trt.ElementWiseOperation.SUB
    ),
    "the same twice": lambda trt, network, inputs: total(
        network, inputs["write_indices"], inputs["write_indices"], trt.ElementWiseOperation.SUM
    ),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_lengths_of_another_make_are_caught(library: Library, graph: Path, wrong: str) -> None:
    parsed, trt = Parsed(library, graph, "mask+lengths"), library.module
    network = parsed.network
    inputs = {network.get_input(index).name: network.get_input(index) for index in range(network.num_inputs)}
    other = network.add_cast(WRONG[wrong](trt, network, inputs), trt.int32).get_output(0)
    other.name = "other"
    parsed.attentions[1].key_value_lengths = other
    with pytest.raises(PlanError, match=r"'layers\.1\.attention\.heads' takes its lengths from 'other', which is not"):
        check_network(library, network, "mask+lengths")


def test_a_refusal_by_the_library_names_the_form_that_works(
    library: Library, graph: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here of lengths in int64, which it does not take."""
    monkeypatch.setattr("export.plan.attention._filled_rows", lambda _library, network: network.get_input(1))
    with pytest.raises(PlanError, match=r"refuses lengths for attention 'layers\.0\.att.*build with --attention mask"):
        Parsed(library, graph, "mask+lengths")


def test_a_library_without_lengths_gets_masks_and_is_not_asked_for_more(library: Library) -> None:
    class OldAttention:
        """``IAttention`` before it took lengths."""

    module = ModuleType("tensorrt")
    module.IAttention = OldAttention  # type: ignore[attr-defined]
    old = Library("tensorrt", module, "10.15")
    assert [library.takes_lengths, old.takes_lengths] == [True, False]
    assert Library("tensorrt", ModuleType("tensorrt"), "10.3").takes_lengths is False
    assert [supported_form(old, form) for form in ("mask+lengths", "mask")] == ["mask", "mask"]
    assert [supported_form(library, form) for form in get_args(AttentionForm)] == list(get_args(AttentionForm))
    with pytest.raises(PlanError, match=r"tensorrt 10\.15 takes no lengths of attention's keys; build with --att"):
        supported_form(old, "lengths")
