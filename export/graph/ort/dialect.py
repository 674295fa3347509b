"""The ``ort`` dialect: ONNX Runtime's contributed operators, for its CPU and CUDA providers.

Attention is GroupQueryAttention, whose past and present may be the same memory; matrices quantized in blocks are
MatMulNBits with ``accuracy_level`` 4 (int8 activations, 20 times faster than level 0 at 8 bits on AVX2), products of
integers are MatMulIntegerToFloat, for the CPU only. Inputs and outputs are those of
``runtime.package.graph_io``. Knows no checkpoint and no order of layers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from runtime.defaults import IDLE_PREFILL_CHUNK_TOKENS
from runtime.package import dtypes, graph_io
from runtime.package.adapter_room import AdapterRoom

from export.checkpoint.lazy_tensor import LazyTensor, column_bands
from export.checkpoint.precision import PrecisionPlan, WeightFormat
from export.checkpoint.quantize import U8, pack_offset_codes, quantize_paired, quantize_rows
from export.checkpoint.quantized_tensor import quantized_bands
from export.checkpoint.spec import DecoderSpec
from export.errors import UnsupportedError
from export.graph.dialect import Value
from export.graph.kv_scales import KvScales
from export.graph.ort.low_rank import LowRankInputs
from export.graph.ort.operators import DOMAIN, ordered_inputs
from export.graph.rope import rope_tables
from export.graph.row_select import logits_rows
from export.graph.writer import Attribute, GraphWriter

OPSET = 21

_INPUT_ZERO_POINT = 128
_NO_SINK = -1e30
"""A sink's logit that adds exp(-1e30) = 0 to every softmax. With any sink ONNX Runtime 1.32 leaves its portable
attention loops for matrix kernels: 17 to 34 % less time in decode's attention, at most 11 % in prefill's, measured on
float32 caches of 128 to 1,000 tokens, batches of 1 to 16; int8 caches do not gain. The price is memory: those kernels
hold a chunk's scores, heads x chunk x capacity."""

_MAX_SCRATCH_BYTES = 2**29


@dataclass(frozen=True, slots=True)
class _Stored:
    """A quantized matrix of ``shape`` [out, in] in the file: names of its initializers."""

    codes: str
    scales: str
    shape: tuple[int, ...]
    format: WeightFormat


class OrtDialect:
    """Emits into a GraphWriter. ``weight_bytes`` and ``formats`` are what the manifest records about the result."""

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
        self._table: _Stored | None = None
        self._written_ropes: set[int] = set()
        self.weight_bytes = 0
        self.formats: dict[str, set[str]] = {}
        self._declare_inputs()
        self._adapters = None if room is None else LowRankInputs(writer, room)
        self._has_selected = False

    def embed(self, table: LazyTensor) -> Value:
        """GatherBlockQuantized or Gather; the table's bytes are shared with a tied head."""
        writer, spec = self._writer, self._spec
        chosen = self._format("embedding", "embedding", table)
        scaled = spec.embedding_multiplier != 1.0
        out = "embedding.rows" if scaled else "embedding.output"
        if chosen.bits:
            stored = self._table = self._quantized("embedding", table, chosen)
            width = spec.hidden_size * chosen.bits // 8
            flat = writer.alias("embedding.table", stored.codes, (spec.vocab_size, width))
            attributes = {"bits": chosen.bits, "block_size": chosen.block, "gather_axis": 0, "quantize_axis": 1}
            inputs = {"data": flat, "indices": graph_io.INPUT_IDS, "scales": stored.scales}
            self._contributed("GatherBlockQuantized", inputs, out, **attributes)
        else:
            writer.stream("embedding.weight", self._dtype, table.shape, table.bands())
            writer.node("Gather", ["embedding.weight", graph_io.INPUT_IDS], out)
        if not scaled:
            return out
        multiplier = writer.constant("embedding.multiplier", np.asarray(spec.embedding_multiplier, self._dtype))
        return writer.node("Mul", [out, multiplier], "embedding.output")

    def norm(self, name: str, x: Value, weight: LazyTensor) -> Value:
        """SimplifiedLayerNormalization, which is RMS norm."""
        inputs = [x, self._vector(name + ".weight", weight)]
        return self._writer.node(
            "SimplifiedLayerNormalization", inputs, name, axis=-1, epsilon=self._spec.norm_eps, stash_type=1
        )

    def add(self, name: str, x: Value, delta: Value) -> Value:
        """Add."""
        return self._writer.node("Add", [x, delta], name)

    def add_norm(self, name: str, x: Value, delta: Value, weight: LazyTensor) -> tuple[Value, Value]:
        """SkipSimplifiedLayerNormalization: sum and norm in one pass."""
        total = name + ".sum"
        inputs = {"input": x, "skip": delta, "gamma": self._vector(name + ".weight", weight)}
        outputs = [name, "", "", total]
        self._contributed("SkipSimplifiedLayerNormalization", inputs, outputs, epsilon=self._spec.norm_eps)
        return total, name

    def linear(self, name: str, x: Value, weight: LazyTensor, bias: LazyTensor | None) -> Value:
        """MatMulNBits, or MatMul and Add; where there is room for an adapter, plus its product."""
        if self._adapters is None or not self._adapters.takes(name):
            return self._product(name, name, x, weight, bias)
        product = self._product(name, name + ".base", x, weight, bias)
        return self._adapters.add(name, x, product, selected=self._has_selected)

    def _product(self, name: str, out: Value, x: Value, weight: LazyTensor, bias: LazyTensor | None) -> Value:
        """The product with ``weight`` plus ``bias``, as the value ``out``."""
        group = "attention" if name.endswith((".qkv", ".o")) else "mlp"
        chosen = self._format(name, group, weight)
        bias_name = self._vector(name + ".bias", bias) if bias else ""
        if chosen.has_integer_inputs:
            return self._integer_product(name, out, x, weight, bias=bias_name, chosen=chosen)
        if chosen.bits:
            return self._matmul_nbits(out, x, self._quantized(name, weight, chosen), bias_name)
        num_out, num_in = weight.shape
        self._writer.stream(name + ".weight", self._dtype, (num_in, num_out), column_bands(weight.numpy()))
        self.weight_bytes += num_out * num_in * self._dtype.itemsize
        product = self._writer.node("MatMul", [x, name + ".weight"], name + ".product" if bias_name else out)
        return self._writer.node("Add", [product, bias_name], out) if bias_name else product

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
        return self._contributed("GroupQueryAttention", inputs, outputs, **attributes)

    def glu(self, name: str, gate_up: Value) -> Value:
        """Split, activation, Mul. QuickGelu with alpha 1 is SiLU in one node."""
        writer = self._writer
        gate, up = name + ".gate", name + ".up"
        writer.node("Split", [gate_up], [gate, up], axis=-1, num_outputs=2)
        match self._spec.activation:
            case "silu":
                active = self._contributed("QuickGelu", {"X": gate}, name + ".active", alpha=1.0)
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
            self.formats["head"] = self.formats["embedding"]
            stored = self._table
        else:
            chosen = self._format("head", "head", head)
            stored = self._quantized("head", head, chosen) if chosen.bits else None
        if stored is not None:
            self._matmul_nbits(out, x, stored)
        else:
            table = "embedding.weight" if head is None else "head.weight"
            if head is not None:
                writer.stream(table, self._dtype, head.shape, head.bands())
            writer.node("Gemm", [x, table], out, transB=1)
            self.weight_bytes += spec.vocab_size * spec.hidden_size * self._dtype.itemsize
        if cast:
            out = writer.node("Cast", [out], "logits.float32" if cap else graph_io.LOGITS, to=1)
        if cap:
            limit = writer.constant("logits.softcap", np.asarray(cap, np.float32))
            scaled = writer.node("Tanh", [writer.node("Div", [out, limit], "logits.scaled")], "logits.capped")
            writer.node("Mul", [scaled, limit], graph_io.LOGITS)
        writer.output(graph_io.LOGITS, np.float32, ("num_logits", spec.vocab_size))

    def precision(self) -> dict[str, str]:
        """Tensor group -> its stored form, or forms, for the manifest."""
        return {group: ", ".join(sorted(labels)) for group, labels in self.formats.items()}

    def _contributed(
        self, op: str, inputs: Mapping[str, str], outputs: str | Sequence[str], **attributes: Attribute
    ) -> Value:
        """A node of ONNX Runtime's own, its inputs by name."""
        return self._writer.node(op, ordered_inputs(op, inputs), outputs, DOMAIN, **attributes)

    def _declare_inputs(self) -> None:
        writer = self._writer
        writer.input(graph_io.INPUT_IDS, np.int64, ("batch", "tokens"))
        writer.input(graph_io.SEQLENS_K, np.int32, ("batch",))
        writer.input(graph_io.TOTAL_SEQUENCE_LENGTH, np.int32, ())
        writer.input(graph_io.LOGITS_INDICES, np.int64, ("num_logits",))

    def _format(self, name: str, group: str, weight: LazyTensor) -> WeightFormat:
        chosen = self._plan.format_of(name, weight.shape[1])
        self.formats.setdefault(group, set()).add(chosen.label(self._plan.float_type))
        return chosen

    def _vector(self, name: str, tensor: LazyTensor) -> str:
        values = tensor.numpy()
        self.weight_bytes += values.size * self._dtype.itemsize
        return self._writer.constant(name, values.astype(self._dtype))

    def _quantized(self, name: str, weight: LazyTensor, chosen: WeightFormat) -> _Stored:
        """Initializers ``name.codes`` and ``name.scales``, band by band: the checkpoint's own, or quantized here."""
        stored = _Stored(name + ".codes", name + ".scales", weight.shape, chosen)
        scales: list[npt.NDArray[Any]] = []
        round_to_nearest = partial(quantize_rows, bits=chosen.bits, block=chosen.block)

        def codes() -> Iterator[U8]:
            for band_codes, band_scales in quantized_bands(weight, chosen, self._dtype, round_to_nearest):
                scales.append(band_scales)
                yield pack_offset_codes(band_codes, chosen.bits, chosen.block)

        num_out, num_in = weight.shape
        blocks = num_in // chosen.block
        self._writer.stream(stored.codes, np.uint8, (num_out, blocks, chosen.block * chosen.bits // 8), codes())
        self._writer.stream(stored.scales, self._dtype, (num_out, blocks), scales)
        return stored

    def _matmul_nbits(self, name: str, x: Value, stored: _Stored, bias: str = "") -> Value:
        (num_out, num_in), chosen = stored.shape, stored.format
        self.weight_bytes += chosen.num_bytes(stored.shape, self._dtype.itemsize)
        inputs = {"A": x, "B": stored.codes, "scales": stored.scales} | ({"bias": bias} if bias else {})
        attributes = {"N": num_out, "K": num_in, "bits": chosen.bits, "block_size": chosen.block, "accuracy_level": 4}
        return self._contributed("MatMulNBits", inputs, name, **attributes)

    def _integer_product(
        self, name: str, out: Value, x: Value, weight: LazyTensor, *, chosen: WeightFormat, bias: str
    ) -> Value:
        """QuantizeLinear and MatMulIntegerToFloat. The input's scale is a constant, so a row's codes are its own."""
        writer, (num_out, num_in) = self._writer, weight.shape
        bands = [quantize_paired(band) for band in weight.bands()]
        codes = np.concatenate([band_codes for band_codes, _ in bands])
        writer.stream(name + ".codes", np.int8, (num_in, num_out), column_bands(codes))
        scales = writer.constant(name + ".scales", np.concatenate([band_scales for _, band_scales in bands]))
        self.weight_bytes += chosen.num_bytes(weight.shape, self._dtype.itemsize)
        scale = writer.constant(name + ".input_scale", np.asarray(chosen.input_scale, np.float32))
        zero = writer.constant("input_zero_point", np.asarray(_INPUT_ZERO_POINT, np.uint8))
        rounded = writer.node("QuantizeLinear", [x, scale, zero], name + ".input")
        inputs = {"A": rounded, "B": name + ".codes", "a_scale": scale, "b_scale": scales, "a_zero_point": zero}
        return self._contributed("MatMulIntegerToFloat", inputs | ({"bias": bias} if bias else {}), out)

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
