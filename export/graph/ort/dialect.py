"""The ``ort`` dialect: ONNX Runtime's contributed operators, for its CPU and CUDA providers.

Attention is GroupQueryAttention, whose past and present may be the same memory; matrices quantized in blocks are
MatMulNBits with ``accuracy_level`` 4 (int8 activations, 20 times faster than level 0 at 8 bits on AVX2), products of
integers are MatMulIntegerToFloat, for the CPU only. Inputs and outputs are those of
``runtime.package.graph_io``. Knows no checkpoint and no order of layers.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from runtime.defaults import IDLE_PREFILL_CHUNK_TOKENS
from runtime.package import dtypes, graph_io
from runtime.package.adapter_room import AdapterRoom

from export.checkpoint.lazy_tensor import LazyTensor
from export.checkpoint.precision import PrecisionPlan
from export.checkpoint.spec import DecoderSpec
from export.errors import UnsupportedError
from export.graph.dialect import Value
from export.graph.kv_scales import KvScales
from export.graph.ort.low_rank import LowRankInputs
from export.graph.ort.matrices import StoredMatrices, StoredMatrix
from export.graph.ort.operators import contributed
from export.graph.rope import rope_tables
from export.graph.row_select import logits_rows
from export.graph.writer import GraphWriter

OPSET = 21

_NO_SINK = -1e30
"""A sink's logit that adds exp(-1e30) = 0 to every softmax. With any sink ONNX Runtime 1.32 leaves its portable
attention loops for matrix kernels: 17 to 34 % less time in decode's attention, at most 11 % in prefill's, measured on
float32 caches of 128 to 1,000 tokens, batches of 1 to 16; int8 caches do not gain. The price is memory: those kernels
hold a chunk's scores, heads x chunk x capacity."""

_MAX_SCRATCH_BYTES = 2**29


class OrtDialect:
    """Emits into a GraphWriter."""

    def __init__(
        self,
        spec: DecoderSpec,
        writer: GraphWriter,
        plan: PrecisionPlan,
        max_model_len: int,
        kv_scales: KvScales | None = None,
        *,
        room: AdapterRoom | None = None,
    ) -> None:
        self._spec, self._writer, self._plan = spec, writer, plan
        self._max_model_len = max_model_len
        self._dtype = dtypes.BY_NAME[plan.float_type].numpy
        self._kv_scales = kv_scales
        self._kv_dtype = self._dtype if kv_scales is None else np.dtype(np.int8)
        self._matrices = StoredMatrices(writer, plan, self._dtype)
        self._table: StoredMatrix | None = None
        self._written_ropes: set[int] = set()
        self._declare_inputs()
        self._adapters = None if room is None else LowRankInputs(writer, room)
        self._has_selected = False

    def embed(self, table: LazyTensor) -> Value:
        """GatherBlockQuantized or Gather; the table's bytes are shared with a tied head."""
        writer, spec = self._writer, self._spec
        chosen = self._matrices.format("embedding", "embedding", table)
        scaled = spec.embedding_multiplier != 1.0
        out = "embedding.rows" if scaled else "embedding.output"
        if chosen.bits:
            stored = self._table = self._matrices.quantized("embedding", table, chosen)
            width = spec.hidden_size * chosen.bits // 8
            flat = writer.alias("embedding.table", stored.codes, (spec.vocab_size, width))
            attributes = {"bits": chosen.bits, "block_size": chosen.block, "gather_axis": 0, "quantize_axis": 1}
            inputs = {"data": flat, "indices": graph_io.INPUT_IDS, "scales": stored.scales}
            contributed(self._writer, "GatherBlockQuantized", inputs, out, **attributes)
        else:
            writer.stream("embedding.weight", self._dtype, table.shape, table.bands())
            writer.node("Gather", ["embedding.weight", graph_io.INPUT_IDS], out)
        if not scaled:
            return out
        multiplier = writer.constant("embedding.multiplier", np.asarray(spec.embedding_multiplier, self._dtype))
        return writer.node("Mul", [out, multiplier], "embedding.output")

    def norm(self, name: str, x: Value, weight: LazyTensor) -> Value:
        """SimplifiedLayerNormalization, which is RMS norm."""
        inputs = [x, self._matrices.vector(name + ".weight", weight)]
        return self._writer.node(
            "SimplifiedLayerNormalization", inputs, name, axis=-1, epsilon=self._spec.norm_eps, stash_type=1
        )

    def add(self, name: str, x: Value, delta: Value) -> Value:
        """Add."""
        return self._writer.node("Add", [x, delta], name)

    def add_norm(self, name: str, x: Value, delta: Value, weight: LazyTensor) -> tuple[Value, Value]:
        """SkipSimplifiedLayerNormalization: sum and norm in one pass."""
        total = name + ".sum"
        inputs = {"input": x, "skip": delta, "gamma": self._matrices.vector(name + ".weight", weight)}
        outputs = [name, "", "", total]
        contributed(self._writer, "SkipSimplifiedLayerNormalization", inputs, outputs, epsilon=self._spec.norm_eps)
        return total, name

    def linear(self, name: str, x: Value, weight: LazyTensor, bias: LazyTensor | None) -> Value:
        """MatMulNBits, or MatMul and Add; where there is room for an adapter, plus its product."""
        if self._adapters is None or not self._adapters.takes(name):
            return self._matrices.product(name, name, x, weight, bias)
        product = self._matrices.product(name, name + ".base", x, weight, bias)
        return self._adapters.add(name, x, product, selected=self._has_selected)

    def attention(self, layer: int, qkv: Value, q_norm: LazyTensor | None, k_norm: LazyTensor | None) -> Value:
        """GroupQueryAttention; query and key norms are nodes before it, since its CPU kernel refuses them as inputs."""
        spec, name = self._spec, f"layers.{layer}.attention"
        parts = [qkv] if q_norm is None or k_norm is None else self._normed_parts(layer, qkv, q_norm, k_norm)
        inputs = dict(zip(("query", "key", "value"), parts, strict=False))
        rope = spec.layers[layer].rope
        caches = graph_io.layer_cache_names(layer)
        cache_shape = ("batch", spec.num_kv_heads, "capacity", spec.head_dim)
        for past, present in caches:
            self._writer.input(past, self._kv_dtype, cache_shape)
            self._writer.output(present, self._kv_dtype, cache_shape)
        (past_key, _), (past_value, _) = caches
        inputs |= {"past_key": past_key, "past_value": past_value, "seqlens_k": graph_io.SEQLENS_K}
        inputs["total_sequence_length"] = graph_io.TOTAL_SEQUENCE_LENGTH
        if rope is not None:
            inputs["cos_cache"], inputs["sin_cache"] = self._rope(rope)
        attributes: dict[str, Any] = {"num_heads": spec.num_heads, "kv_num_heads": spec.num_kv_heads}
        attributes |= {"do_rotary": int(rope is not None), "scale": spec.softmax_scale}
        if window := spec.layers[layer].window:
            attributes["local_window_size"] = window
        if spec.attention_softcap:
            attributes["softcap"] = spec.attention_softcap
        scratch = spec.num_heads * IDLE_PREFILL_CHUNK_TOKENS * self._max_model_len * self._dtype.itemsize
        if self._kv_scales is None and self._dtype == np.float32 and scratch <= _MAX_SCRATCH_BYTES:
            sink = np.full(spec.num_heads, _NO_SINK, np.float32)
            inputs["head_sink"] = self._writer.constant("attention.no_sink", sink)
        if self._kv_scales is not None:
            keys, values = self._kv_scales.scales[layer]
            inputs["k_scale"] = self._writer.constant(f"{name}.key_scale", keys)
            inputs["v_scale"] = self._writer.constant(f"{name}.value_scale", values)
            attributes |= {"kv_cache_bit_width": 8, "k_quant_type": "PER_CHANNEL", "v_quant_type": "PER_CHANNEL"}
        outputs = [name, *(present for _, present in caches)]
        return contributed(self._writer, "GroupQueryAttention", inputs, outputs, **attributes)

    def glu(self, name: str, gate_up: Value) -> Value:
        """Split, activation, Mul. QuickGelu with alpha 1 is SiLU in one node."""
        writer = self._writer
        gate, up = name + ".gate", name + ".up"
        writer.node("Split", [gate_up], [gate, up], axis=-1, num_outputs=2)
        match self._spec.activation:
            case "silu":
                active = contributed(self._writer, "QuickGelu", {"X": gate}, name + ".active", alpha=1.0)
            case "gelu_tanh":
                active = writer.node("Gelu", [gate], name + ".active", approximate="tanh")
            case "gelu":
                active = writer.node("Gelu", [gate], name + ".active")
        return writer.node("Mul", [active, up], name)

    def select(self, name: str, x: Value, width: int) -> Value:
        """See ``logits_rows``."""
        self._has_selected = True
        return logits_rows(self._writer, name, x, width)

    def logits(self, x: Value, head: LazyTensor | None) -> None:
        """MatMulNBits or Gemm on the head; float32 out whatever the graph computes in."""
        writer, spec = self._writer, self._spec
        cast, cap = self._dtype != np.float32, spec.logits_softcap
        out = "logits.raw" if cast or cap else graph_io.LOGITS
        if head is None:
            self._matrices.formats["head"] = self._matrices.formats["embedding"]
            stored = self._table
        else:
            chosen = self._matrices.format("head", "head", head)
            stored = self._matrices.quantized("head", head, chosen) if chosen.bits else None
        if stored is not None:
            self._matrices.in_blocks(out, x, stored)
        else:
            table = "embedding.weight" if head is None else "head.weight"
            if head is not None:
                writer.stream(table, self._dtype, head.shape, head.bands())
            writer.node("Gemm", [x, table], out, transB=1)
            self._matrices.weight_bytes += spec.vocab_size * spec.hidden_size * self._dtype.itemsize
        if cast:
            out = writer.node("Cast", [out], "logits.float32" if cap else graph_io.LOGITS, to=1)
        if cap:
            limit = writer.constant("logits.softcap", np.asarray(cap, np.float32))
            scaled = writer.node("Tanh", [writer.node("Div", [out, limit], "logits.scaled")], "logits.capped")
            writer.node("Mul", [scaled, limit], graph_io.LOGITS)
        writer.output(graph_io.LOGITS, np.float32, ("num_logits", spec.vocab_size))

    @property
    def weight_bytes(self) -> int:
        """Bytes of weights that one decode step reads, for the manifest."""
        return self._matrices.weight_bytes

    def precision(self) -> dict[str, str]:
        """Tensor group -> its stored form, or forms, for the manifest."""
        return {group: ", ".join(sorted(labels)) for group, labels in self._matrices.formats.items()}

    def _declare_inputs(self) -> None:
        writer = self._writer
        writer.input(graph_io.INPUT_IDS, np.int64, ("batch", "tokens"))
        writer.input(graph_io.SEQLENS_K, np.int32, ("batch",))
        writer.input(graph_io.TOTAL_SEQUENCE_LENGTH, np.int32, ())
        writer.input(graph_io.LOGITS_INDICES, np.int64, ("num_logits",))

    def _rope(self, index: int) -> tuple[str, str]:
        if self._spec.ropes[index].dim % 16:
            raise UnsupportedError(
                f"rotary embedding over {self._spec.ropes[index].dim} dimensions: ONNX Runtime takes multiples of 16"
            )
        names = (f"rope.{index}.cos", f"rope.{index}.sin")
        if index not in self._written_ropes:  # layers share them
            self._written_ropes.add(index)
            for name, table in zip(names, rope_tables(self._spec.ropes[index], self._max_model_len), strict=True):
                self._writer.constant(name, table.astype(self._dtype))
        return names

    def _normed_parts(self, layer: int, qkv: Value, q_norm: LazyTensor, k_norm: LazyTensor) -> list[Value]:
        """q, k and v apart, q and k normalized per head or over their whole width."""
        writer, spec, prefix = self._writer, self._spec, f"layers.{layer}."
        sizes = writer.constant("qkv_sizes", np.array([spec.q_size, spec.kv_size, spec.kv_size], np.int64))
        parts = [prefix + role + "_part" for role in "qkv"]
        writer.node("Split", [qkv, sizes], parts, axis=-1)
        normed = []
        for part, role, weight in zip(parts, "qk", (q_norm, k_norm), strict=False):
            name = prefix + role + "_norm"
            if spec.qk_norm == "full":
                normed.append(self.norm(name, part, weight))
                continue
            heads = writer.constant("head_rows", np.array([0, 0, -1, spec.head_dim], np.int64))
            joined = writer.constant("joined_heads", np.array([0, 0, -1], np.int64))
            by_head = writer.node("Reshape", [part, heads], name + ".heads")
            normed.append(writer.node("Reshape", [self.norm(name, by_head, weight), joined], name + ".joined"))
        return [*normed, parts[2]]
