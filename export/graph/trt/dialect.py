"""The ``trt`` dialect: standard operators of opset 24 in the forms that TensorRT compiles to fused kernels.

Inputs and outputs are those of ``runtime.package.graph_io``. What is avoided, and why, as seen with the parser of
TensorRT for RTX 1.7.1: ``Attention``'s ``is_causal`` becomes an upper-left mask, with which a decoded token sees only
the first key; its ``nonpad_kv_seqlen`` input is dropped without a word; ``softcap`` is refused; contributed attention
and ``MatMulNBits`` parse but need plugins that the library does not carry. So the mask is a boolean tensor made from
absolute positions, and a softcapped attention is spelled out. A float32 graph of this dialect runs on ONNX Runtime's
CPU provider, which is how its meaning is tested. Knows no order of layers.
"""

from __future__ import annotations

import numpy as np
from runtime.package import dtypes, graph_io
from runtime.package.graph_profiles import slot_rows

from export.checkpoint.lazy_tensor import LazyTensor
from export.checkpoint.precision import PrecisionPlan, WeightFormat
from export.checkpoint.spec import DecoderSpec
from export.errors import UnsupportedError
from export.graph.dialect import Value
from export.graph.row_select import logits_rows
from export.graph.trt.attention import TrtAttention
from export.graph.trt.weights import TrtWeights
from export.graph.writer import GraphWriter

OPSET = 24


class TrtDialect:
    """Emits into a GraphWriter. ``weight_bytes`` and ``formats`` are what the manifest records about the result.

    ``max_model_len`` bounds the length of a cache slot, which is symbolic in the graph: tables of positions have the
    rows of the longest slot. The embedding's table stays in floating point: TensorRT keeps no int8 table packed that it
    gathers from; a tied head gets its own matrix in the plan's format, since every decode step reads all of it.
    """

    def __init__(self, spec: DecoderSpec, writer: GraphWriter, plan: PrecisionPlan, max_model_len: int) -> None:
        if max_model_len < 1 or max_model_len > spec.max_positions:
            raise UnsupportedError(
                f"a cache of {max_model_len} tokens is not possible; the model supports 1 to {spec.max_positions}"
            )
        self._spec, self._writer, self._plan = spec, writer, plan
        self._dtype = dtypes.BY_NAME[plan.float_type].numpy
        self._weights = TrtWeights(writer, self._dtype)
        self._attention = TrtAttention(spec, writer, self._dtype, slot_rows(max_model_len))
        self._table: LazyTensor | None = None
        self._parts: dict[Value, list[Value]] = {}
        self.formats: dict[str, set[str]] = {}
        writer.input(graph_io.INPUT_IDS, np.int64, ("batch", "tokens"))
        writer.input(graph_io.WRITE_INDICES, np.int64, ("batch",))
        writer.input(graph_io.LOGITS_INDICES, np.int64, ("num_logits",))

    @property
    def weight_bytes(self) -> int:
        """Bytes of weights that one decode step reads."""
        return self._weights.num_bytes

    def precision(self) -> dict[str, str]:
        """Group -> how its weights are stored, as the manifest records it."""
        return {group: ", ".join(sorted(labels)) for group, labels in sorted(self.formats.items())}

    def embed(self, table: LazyTensor) -> Value:
        """Gather from a floating-point table."""
        self._table = table
        self.formats["embedding"] = {WeightFormat().label(self._plan.float_type)}
        multiplier = self._spec.embedding_multiplier
        weight = self._writer.stream("embedding.weight", self._dtype, table.shape, table.bands())
        out = "embedding.rows" if multiplier != 1.0 else "embedding.output"
        rows = self._writer.node("Gather", [weight, graph_io.INPUT_IDS], out)
        return rows if multiplier == 1.0 else self._scaled("embedding.output", rows, multiplier)

    def norm(self, name: str, x: Value, weight: LazyTensor) -> Value:
        """RMSNormalization, in float32 inside."""
        inputs = [x, self._weights.vector(name + ".weight", weight)]
        return self._writer.node("RMSNormalization", inputs, name, axis=-1, epsilon=self._spec.norm_eps, stash_type=1)

    def add(self, name: str, x: Value, delta: Value) -> Value:
        """Add."""
        return self._writer.node("Add", [x, delta], name)

    def add_norm(self, name: str, x: Value, delta: Value, weight: LazyTensor) -> tuple[Value, Value]:
        """Add and RMSNormalization; TensorRT fuses them."""
        total = self.add(name + ".sum", x, delta)
        return total, self.norm(name, total, weight)

    def linear(self, name: str, x: Value, weight: LazyTensor, bias: LazyTensor | None) -> Value:
        """MatMul with a weight that is dequantized in the graph, and Add.

        Fused projections (qkv, gate and up) leave their parts' values in ``_parts``. Quantized ones stay one MatMul
        with a Split behind it, floating-point ones become a MatMul each: each in the form that TensorRT for RTX 1.7.1
        stores once.
        """
        group = "attention" if name.endswith((".qkv", ".o")) else "mlp"
        chosen, sizes = self._format(name, group, weight), self._part_sizes(name)
        if len(sizes) == 1:
            return self._product(name, x, weight, bias, chosen)
        if chosen.bits:
            product = self._product(name, x, weight, bias, chosen)
            rows = self._writer.constant("sizes." + ".".join(sizes), np.array([*sizes.values()], np.int64))
            self._parts[name] = [f"{name}.{role}" for role in sizes]
            self._writer.node("Split", [product, rows], self._parts[name], axis=-1)
            return name
        parts, first = [], 0
        for role, size in sizes.items():
            part = weight.slice_rows(first, size)
            part_bias = bias.slice_rows(first, size) if bias else None
            parts.append(self._product(f"{name}.{role}", x, part, part_bias, chosen))
            first += size
        self._parts[name] = parts
        return name

    def _part_sizes(self, name: str) -> dict[str, int]:
        """Rows of each projection that a matrix of this name holds."""
        spec = self._spec
        if name.endswith(".qkv"):
            return {"q": spec.q_size, "k": spec.kv_size, "v": spec.kv_size}
        if name.endswith(".gate_up"):
            return {"gate": spec.intermediate_size, "up": spec.intermediate_size}
        return {name: 0}

    def _product(self, name: str, x: Value, weight: LazyTensor, bias: LazyTensor | None, chosen: WeightFormat) -> Value:
        matrix = self._weights.matrix(name, weight, chosen)
        product = self._writer.node("MatMul", [x, matrix], name + ".product" if bias else name)
        if bias is None:
            return product
        return self._writer.node("Add", [product, self._weights.vector(name + ".bias", bias)], name)

    def attention(self, layer: int, qkv: Value, q_norm: LazyTensor | None, k_norm: LazyTensor | None) -> Value:
        """Norms, RotaryEmbedding, two TensorScatter, Attention."""
        spec, prefix, parts = self._spec, f"layers.{layer}.", self._parts.pop(qkv)
        heads = [
            self._heads(prefix + "q", parts[0], spec.num_heads, q_norm),
            self._heads(prefix + "k", parts[1], spec.num_kv_heads, k_norm),
            self._heads(prefix + "v", parts[2], spec.num_kv_heads, None),
        ]
        return self._attention.emit(layer, *heads)

    def glu(self, name: str, gate_up: Value) -> Value:
        """Activation, Mul."""
        writer = self._writer
        gate, up = self._parts.pop(gate_up)
        match self._spec.activation:
            case "silu":
                active = writer.node("Swish", [gate], name + ".active")
            case "gelu_tanh":
                active = writer.node("Gelu", [gate], name + ".active", approximate="tanh")
            case "gelu":
                active = writer.node("Gelu", [gate], name + ".active")
        return writer.node("Mul", [active, up], name)

    def select(self, name: str, x: Value, width: int) -> Value:
        """See ``logits_rows``."""
        return logits_rows(self._writer, name, x, width)

    def logits(self, x: Value, head: LazyTensor | None) -> None:
        """MatMul on the head; float32 and softcapped after the product, whatever the graph computes in."""
        writer, cap, is_half = self._writer, self._spec.logits_softcap, self._dtype != np.float32
        table = head or self._table
        if table is None:
            raise UnsupportedError("a tied head needs an embedding before it")
        name = "embedding" if head is None else "head"  # a tied head shares the embedding's place in the plan
        chosen = self._plan.format_of(name, table.shape[1])
        if head is None and not chosen.bits:
            matrix = writer.node("Transpose", ["embedding.weight"], "head.matrix", perm=[1, 0])  # one table for both
            self._weights.num_bytes += table.shape[0] * table.shape[1] * self._dtype.itemsize
            self.formats["head"] = self.formats["embedding"]
        else:
            self.formats["head"] = {chosen.label(self._plan.float_type)}
            matrix = self._weights.matrix("head", table, chosen)
        out = "logits.raw" if cap or is_half else graph_io.LOGITS
        value = writer.node("MatMul", [x, matrix], out)
        if is_half:
            value = writer.node("Cast", [value], "logits.float32" if cap else graph_io.LOGITS, to=1)
        if cap:
            inverse = writer.constant("logits.inverse_cap", np.asarray(1.0 / cap, np.float32))
            bounded = writer.node("Tanh", [writer.node("Mul", [value, inverse], "logits.scaled")], "logits.bounded")
            writer.node("Mul", [bounded, writer.constant("logits.cap", np.asarray(cap, np.float32))], graph_io.LOGITS)
        writer.output(graph_io.LOGITS, np.float32, ("num_logits", self._spec.vocab_size))

    def _format(self, name: str, group: str, weight: LazyTensor) -> WeightFormat:
        chosen = self._plan.format_of(name, weight.shape[1])
        self.formats.setdefault(group, set()).add(chosen.label(self._plan.float_type))
        return chosen

    def _heads(self, name: str, part: Value, num_heads: int, weight: LazyTensor | None) -> Value:
        """[B, T, num_heads * D] -> [B, num_heads, T, D], normalized over the full width or per head."""
        writer, spec = self._writer, self._spec
        if weight is not None and spec.qk_norm == "full":
            part = self.norm(name + "_norm", part, weight)
        shape = writer.constant(f"{num_heads}_heads", np.array([0, 0, num_heads, spec.head_dim], np.int64))
        rows = writer.node("Reshape", [part, shape], name + ".rows")
        if weight is not None and spec.qk_norm == "head":
            rows = self.norm(name + "_norm", rows, weight)
        return writer.node("Transpose", [rows], name + ".heads", perm=[0, 2, 1, 3])

    def _scaled(self, name: str, x: Value, factor: float) -> Value:
        constant = self._writer.constant(name + ".factor", np.asarray(factor, self._dtype))
        return self._writer.node("Mul", [x, constant], name)
