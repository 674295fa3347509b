"""The decoder, once: walks the layers of a spec and says each piece to a dialect.

Constants that multiply a block's output or the logits are folded into weights here, so no dialect sees them. Knows
neither operators nor files.
"""

from __future__ import annotations

from collections.abc import Callable

from export.checkpoint.checkpoint import Checkpoint
from export.checkpoint.lazy_tensor import LazyTensor, concat_rows
from export.checkpoint.quantized_tensor import concat_weights
from export.graph.dialect import Dialect, Value


def emit_decoder(checkpoint: Checkpoint, dialect: Dialect, on_layer: Callable[[], None] = lambda: None) -> None:
    """Emit every piece of the checkpoint's decoder; ``on_layer`` is called after each layer and after the head.

    Only rows that want logits go through what follows the last layer's attention: nobody reads the others, since
    their keys and values are in the cache by then.
    """
    spec = checkpoint.spec
    x, delta = _Layer(checkpoint, dialect, 0).emit(dialect.embed(checkpoint.tensor("embedding")), None)
    on_layer()
    for layer in range(1, spec.num_layers):
        x, delta = _Layer(checkpoint, dialect, layer).emit(x, delta)
        on_layer()
    hidden = _final_norm(checkpoint, dialect, x, delta)
    dialect.logits(hidden, None if spec.tied_head else checkpoint.tensor("head"))
    on_layer()


def emit_layer(checkpoint: Checkpoint, dialect: Dialect, index: int, stream: Value) -> Value:
    """Emit one layer alone: the residual stream before it -> the stream after it, every row of both.

    After the last layer the final norm follows, so that what comes out is what the head reads.
    """
    x, delta = _Layer(checkpoint, dialect, index, keeps_rows=True).emit(stream, None)
    if index == checkpoint.spec.num_layers - 1:
        return _final_norm(checkpoint, dialect, x, delta)
    return dialect.add(f"layers.{index}.output", x, delta)


def _final_norm(checkpoint: Checkpoint, dialect: Dialect, x: Value, delta: Value) -> Value:
    weight = _scaled(checkpoint.tensor("final_norm"), checkpoint.spec.logits_multiplier)
    _, hidden = dialect.add_norm("final_norm", x, delta, weight)
    return hidden


class _Layer:
    """One layer. ``x`` is the residual stream, ``delta`` what the block before adds; their sum fuses with a norm."""

    def __init__(self, checkpoint: Checkpoint, dialect: Dialect, index: int, *, keeps_rows: bool = False) -> None:
        self.checkpoint, self.dialect, self.index = checkpoint, dialect, index
        self.spec = checkpoint.spec
        self.selects_rows = index == self.spec.num_layers - 1 and not keeps_rows
        self.prefix = f"layers.{index}."

    def emit(self, x: Value, delta: Value | None) -> tuple[Value, Value]:
        """The stream after the attention block and the MLP's output, not yet added."""
        x, hidden = self._enter("attention_norm", x, delta)
        attended = self._attention(hidden)
        if self.selects_rows:
            attended = self.dialect.select(self.prefix + "attended_rows", attended, self.spec.q_size)
            x = self.dialect.select(self.prefix + "residual_rows", x, self.spec.hidden_size)
        delta = self._leave("o", "attention_post_norm", attended)
        x, hidden = self._enter("mlp_norm", x, delta)
        inner = self.dialect.glu(self.prefix + "inner", self._linear("gate_up", hidden, ("gate", "up")))
        return x, self._leave("down", "mlp_post_norm", inner)

    def _tensor(self, role: str) -> LazyTensor:
        return self.checkpoint.tensor(self.prefix + role)

    def _enter(self, norm: str, x: Value, delta: Value | None) -> tuple[Value, Value]:
        """(stream with ``delta`` added, what the next block reads)."""
        name = self.prefix + norm
        if self.spec.norm_placement == "post":
            x = x if delta is None else self.dialect.add(name.replace("norm", "input"), x, delta)
            return x, x
        if delta is None:
            return x, self.dialect.norm(name, x, self._tensor(norm))
        return self.dialect.add_norm(name, x, delta, self._tensor(norm))

    def _leave(self, role: str, norm: str, x: Value) -> Value:
        """A block's last projection and, where the spec has one, the norm after it."""
        multiplier = self.spec.residual_multiplier
        if self.spec.norm_placement == "pre":
            return self._linear(role, x, (role,), multiplier)
        out = self._linear(role, x, (role,))
        return self.dialect.norm(self.prefix + norm, out, _scaled(self._tensor(norm), multiplier))

    def _attention(self, hidden: Value) -> Value:
        qkv = self._linear("qkv", hidden, ("q", "k", "v"))
        has_norm = self.spec.qk_norm != "none"
        q_norm, k_norm = (self._tensor("q_norm"), self._tensor("k_norm")) if has_norm else (None, None)
        return self.dialect.attention(self.index, qkv, q_norm, k_norm)

    def _linear(self, name: str, x: Value, roles: tuple[str, ...], multiplier: float = 1.0) -> Value:
        has_bias = {"qkv": self.spec.qkv_bias, "o": self.spec.output_bias}.get(name, self.spec.mlp_bias)
        full_name = self.prefix + name
        weight = _scaled(concat_weights(full_name, [self._tensor(role) for role in roles]), multiplier)
        bias = concat_rows(full_name + "_bias", [self._tensor(role + "_bias") for role in roles]) if has_bias else None
        return self.dialect.linear(full_name, x, weight, _scaled(bias, multiplier) if bias else None)


def _scaled(tensor: LazyTensor, multiplier: float) -> LazyTensor:
    return tensor if multiplier == 1.0 else tensor.map(lambda band: band * multiplier)
