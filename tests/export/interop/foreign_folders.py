"""Folders as ONNX Runtime GenAI's builder and Optimum leave them, small: of random weights, or of a few operators."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from export.checkpoint.precision import PrecisionPlan, WeightFormat
from export.checkpoint.spec import DecoderSpec
from tests.export.random_checkpoint import ARCHITECTURES, CAPACITY, write_ort
from tests.export.tiny_models import tiny_tokenizer_json

SPEC = ARCHITECTURES["llama3"]
INT8 = PrecisionPlan(WeightFormat(8, 32), "float32")

_OPTIMUM = """
<ir_version: 8, opset_import: ["" : 18]>
decoder (int64[B, T] input_ids, int64[B, A] attention_mask, int64[B, T] position_ids,
         float[B, 2, P, 4] past_key, float[B, 2, P, 4] past_value)
     => (float[B, T, 97] logits, float[B, 2, Q, 4] present_key, float[B, 2, Q, 4] present_value) {
    words = Gather(table, input_ids)
    places = Gather(position_table, position_ids)
    x = Add(words, places)
    q_flat = MatMul(x, wq)
    k_flat = MatMul(x, wk)
    v_flat = MatMul(x, wv)
    q_heads = Reshape(q_flat, by_head)
    k_heads = Reshape(k_flat, by_head)
    v_heads = Reshape(v_flat, by_head)
    q = Transpose <perm = [0, 2, 1, 3]> (q_heads)
    k = Transpose <perm = [0, 2, 1, 3]> (k_heads)
    v = Transpose <perm = [0, 2, 1, 3]> (v_heads)
    present_key = Concat <axis = 2> (past_key, k)
    present_value = Concat <axis = 2> (past_value, v)
    keys = Transpose <perm = [0, 1, 3, 2]> (present_key)
    scores = MatMul(q, keys)
    mask_shape = Shape(attention_mask)
    width = Gather(mask_shape, second)
    key_places = Range(first, width, second)
    query_places = Unsqueeze(position_ids, last)
    is_earlier = LessOrEqual(key_places, query_places)
    real = Cast <to = 9> (attention_mask)
    real_keys = Unsqueeze(real, axis_one)
    seen_flat = And(is_earlier, real_keys)
    seen = Unsqueeze(seen_flat, axis_one)
    masked = Where(seen, scores, nothing)
    weights = Softmax <axis = -1> (masked)
    mixed = MatMul(weights, present_value)
    rows = Transpose <perm = [0, 2, 1, 3]> (mixed)
    joined = Reshape(rows, flat)
    y = Add(x, joined)
    logits = MatMul(y, head)
}
"""


def write_genai(folder: Path, spec: DecoderSpec = SPEC, *, int8: bool = False, **changes: Any) -> Path:
    """GenAI's folder: the nodes of its builder around our graph's decoder, logits of every token, its own names.

    ``changes`` go into the configuration's ``model``.
    """
    folder.mkdir(parents=True)
    path = write_ort(spec, folder, INT8 if int8 else None)
    model = onnx.load(str(path), load_external_data=False)
    _with_mask(model.graph, spec)
    path.write_bytes(model.SerializeToString())
    inputs = {"input_ids": "input_ids", "attention_mask": "attention_mask", "past_key_names": "past_%d_k",
              "past_value_names": "past_%d_v"}  # fmt: skip
    outputs = {"logits": "logits", "present_key_names": "out_%d_k", "present_value_names": "out_%d_v"}
    decoder = {
        "session_options": {"provider_options": []},
        "filename": "model.onnx",
        "inputs": inputs,
        "outputs": outputs,
        "head_size": spec.head_dim,
        "hidden_size": spec.hidden_size,
        "num_attention_heads": spec.num_heads,
        "num_hidden_layers": spec.num_layers,
        "num_key_value_heads": spec.num_kv_heads,
    }
    part = {"type": "llama", "context_length": CAPACITY, "vocab_size": spec.vocab_size, "eos_token_id": [2, 7],
            "pad_token_id": 2, "decoder": decoder | changes.pop("decoder", {})}  # fmt: skip
    search = {"do_sample": True, "temperature": 0.5, "top_p": 0.75, "top_k": 20, "max_length": CAPACITY,
              "past_present_share_buffer": True}  # fmt: skip
    (folder / "genai_config.json").write_text(json.dumps({"model": part | changes, "search": search}))
    return write_texts(folder)


def write_optimum(folder: Path) -> Path:
    """Optimum's folder: one layer in standard operators, whose cache grows by Concat; positions are learned."""
    folder.mkdir(parents=True)
    model = onnx.parser.parse_model(_OPTIMUM)
    for kind in ("key", "value"):  # which the parser's names cannot be
        _rename(model.graph, f"past_{kind}", f"past_key_values.0.{kind}")
        _rename(model.graph, f"present_{kind}", f"present.0.{kind}")
    rng = np.random.default_rng(3)
    shapes = {"table": (97, 8), "position_table": (64, 8), "wq": (8, 8), "wk": (8, 8), "wv": (8, 8), "head": (8, 97)}
    arrays = {name: rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}
    integers = {"by_head": [0, 0, 2, 4], "flat": [0, 0, 8], "last": [-1], "axis_one": [1], "first": 0, "second": 1}
    arrays |= {name: np.array(value, np.int64) for name, value in integers.items()}
    arrays["nothing"] = np.array(-1e9, np.float32)
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in arrays.items())
    onnx.save(
        model, str(folder / "model.onnx"), save_as_external_data=True, location="model.onnx_data", size_threshold=200
    )
    (folder / "config.json").write_text(
        json.dumps({"model_type": "gpt_tiny", "max_position_embeddings": 64, "eos_token_id": 2})
    )
    return write_texts(folder)


def write_texts(folder: Path) -> Path:
    (folder / "tokenizer.json").write_text(tiny_tokenizer_json(SPEC.vocab_size))
    special = {"bos_token": "<s>", "eos_token": "</s>", "tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(special))
    (folder / "LICENSE").write_text("MIT")
    return folder


def _with_mask(graph: onnx.GraphProto, spec: DecoderSpec) -> None:
    """What the builder writes around a decoder: lengths from the mask; here every token's logits, and other names."""
    ours = {"seqlens_k", "total_sequence_length", "logits_indices"}
    kept = [value for value in graph.input if value.name not in ours]
    mask = helper.make_tensor_value_info("attention_mask", TensorProto.INT64, ["batch", "total"])
    head = graph.node[-1]
    assert head.output[0] == "logits"
    before = [
        _node("ReduceSum", ["attention_mask", "c.one"], "lengths", keepdims=0),
        _node("Sub", ["lengths", "c.one"], "less_one"),
        _node("Cast", ["less_one"], "seqlens_k", to=TensorProto.INT32),
        _node("Shape", ["attention_mask"], "mask_shape"),
        _node("Gather", ["mask_shape", "c.second"], "total"),
        _node("Cast", ["total"], "total_sequence_length", to=TensorProto.INT32),
        _node("Size", ["input_ids"], "num_tokens"),
        _node("Range", ["c.first", "num_tokens", "c.second"], "logits_indices"),
        _node("Shape", ["input_ids"], "ids_shape"),
        _node("Concat", ["ids_shape", "c.width"], "hidden_shape", axis=0),
        _node("Concat", ["ids_shape", "c.vocabulary"], "logits_shape", axis=0),
    ]
    constants = {"one": [1], "first": 0, "second": 1, "width": [spec.hidden_size], "vocabulary": [spec.vocab_size]}
    if head.op_type == "MatMulNBits":  # takes three dimensions, as the builder gives it
        between, after = [_node("Reshape", [head.input[0], "hidden_shape"], "hidden")], []
        head.input[0] = "hidden"
    else:
        between, after = [], [_node("Reshape", ["flat_logits", "logits_shape"], "logits")]
        head.output[0] = "flat_logits"
    nodes = [*before, *list(graph.node)[:-1], *between, head, *after]
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", "tokens", spec.vocab_size])
    outputs = [logits, *(value for value in graph.output if value.name != "logits")]
    for field, values in ((graph.input, [kept[0], mask, *kept[1:]]), (graph.output, outputs), (graph.node, nodes)):
        copies = [type(value).FromString(value.SerializeToString()) for value in values]
        del field[:]
        field.extend(copies)
    graph.initializer.extend(numpy_helper.from_array(np.array(v, np.int64), f"c.{k}") for k, v in constants.items())
    for value in (*graph.input, *graph.output):
        if value.name.startswith(("past", "present")):
            value.type.tensor_type.shape.dim[3].dim_param = "kv_cache_dim"
    for i in range(spec.num_layers):
        for kind in ("key", "value"):
            _rename(graph, f"past_key_values.{i}.{kind}", f"past_{i}_{kind[0]}")
            _rename(graph, f"present.{i}.{kind}", f"out_{i}_{kind[0]}")


def _rename(graph: onnx.GraphProto, old: str, new: str) -> None:
    for node in graph.node:
        node.input[:] = [new if name == old else name for name in node.input]
        node.output[:] = [new if name == old else name for name in node.output]
    for value in (*graph.input, *graph.output):
        value.name = new if value.name == old else value.name


def _node(op: str, inputs: list[str], output: str, **attributes: int) -> onnx.NodeProto:
    return helper.make_node(op, inputs, [output], **dict[str, Any](attributes))
