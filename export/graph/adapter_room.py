"""The room for adapters that a checkpoint's graph has: sizes, and what scales each matrix's change.

Knows how the decoder fuses and scales its projections; emits nothing.
"""

from __future__ import annotations

from collections.abc import Collection

from runtime.package.adapter_room import AdapterPart, AdapterProjection, AdapterRoom

from export.checkpoint.checkpoint import Checkpoint
from export.graph.attention_scale import query_scale


def adapter_room(checkpoint: Checkpoint, rank: int, roles: Collection[str]) -> AdapterRoom:
    """Room for adapters of up to ``rank`` on the matrices ``roles`` of the checkpoint's float32 ``ort`` graph."""
    # What scales the weights scales a change of them: see ``with_unit_attention_scale`` and ``emit_decoder``.
    spec, query = checkpoint.spec, query_scale(checkpoint)
    leaving = spec.residual_multiplier if spec.norm_placement == "pre" else 1.0
    sizes = {
        "qkv": (spec.hidden_size, {"q": (spec.q_size, query), "k": (spec.kv_size, 1.0), "v": (spec.kv_size, 1.0)}),
        "o": (spec.q_size, {"o": (spec.hidden_size, leaving)}),
        "gate_up": (spec.hidden_size, dict.fromkeys(("gate", "up"), (spec.intermediate_size, 1.0))),
        "down": (spec.intermediate_size, {"down": (spec.hidden_size, leaving)}),
    }
    projections = []
    for name, (inputs, outputs) in sizes.items():
        start, parts = 0, []
        for role, (count, scale) in outputs.items():
            if role in roles:
                parts.append(AdapterPart(role=role, start=start, outputs=count, scale=scale))
            start += count
        if parts:
            projections.append(AdapterProjection(name=name, inputs=inputs, outputs=start, parts=tuple(parts)))
    return AdapterRoom(rank=rank, num_layers=spec.num_layers, projections=tuple(projections))
