"""An adapter's matrices laid out as a package's graph takes them. Knows the room and no file."""

from __future__ import annotations

import numpy as np

from runtime.adapter import Adapter, Matrix
from runtime.adapters.factors import Factors
from runtime.adapters.low_rank import LowRank, PeftAdapter
from runtime.errors import AdapterError
from runtime.package import graph_io
from runtime.package.adapter_room import COLUMNS, ROLES, AdapterProjection, AdapterRoom


def fitted(adapter: PeftAdapter, room: AdapterRoom, factors: Factors | None = None) -> Adapter:
    """``adapter`` for a graph with ``room``, in which ``factors`` were moved.

    Raises AdapterError where it changes more than there is room for, or by a larger rank.
    """
    _check(adapter, room)
    outputs = {part.role: part.outputs for projection in room.projections for part in projection.parts}
    changes = adapter.by_role(outputs, room.num_layers)
    matrices: dict[str, Matrix] = {}
    for layer in range(room.num_layers):
        for projection in room.projections:
            own = {part.role: changes[layer, part.role] for part in projection.parts if (layer, part.role) in changes}
            if own:
                a, b = _laid_out(own, projection, room, adapter.name)
                if factors is not None:
                    columns, rows = factors[layer, projection.name]
                    a, b = a * columns[:, None], b * rows
                names = graph_io.adapter_names(layer, projection.name)
                matrices |= zip(names, _in_blocks(a, b), strict=True)
    return Adapter(adapter.name, adapter.digest, matrices)


def _check(adapter: PeftAdapter, room: AdapterRoom) -> None:
    changed = {role for _, roles in adapter.changes for role in roles}
    if beyond := [role for role in ROLES if role in changed and role not in room.roles]:
        raise AdapterError(
            f"{adapter.name}: it changes {', '.join(beyond)}, the package has room for {', '.join(room.roles)}; "
            "export it with more --lora-targets"
        )
    largest = max(len(change.a) for change in adapter.changes.values())
    if largest > room.rank:
        raise AdapterError(
            f"{adapter.name}: rank {largest} is above the {room.rank} that the package has room for; export it with "
            f"--lora-rank {largest}"
        )


def _laid_out(
    own: dict[str, LowRank], projection: AdapterProjection, room: AdapterRoom, name: str
) -> tuple[Matrix, Matrix]:
    """a [in, K * 16] and b [K * 16, out]: each part has columns of its own, so b is zero but for its part's outputs."""
    width = room.blocks(projection) * COLUMNS
    a = np.zeros((projection.inputs, width), np.float32)
    b = np.zeros((width, projection.outputs), np.float32)
    for place, part in enumerate(projection.parts):
        change = own.get(part.role)
        if change is None:
            continue
        rank, num_in = change.a.shape
        if num_in != projection.inputs:
            raise AdapterError(
                f"{name}: {part.role} reads {num_in} inputs, the model's {projection.inputs}; it was trained for "
                "another model"
            )
        first = place * room.rank
        a[:, first : first + rank] = change.a.T
        b[first : first + rank, part.start : part.start + part.outputs] = change.b.T * np.float32(part.scale)
    return a, b


def _in_blocks(a: Matrix, b: Matrix) -> tuple[Matrix, Matrix]:
    """As the graph takes them: [K, in, 16] and [K, 16, out], read-only."""
    blocks = np.ascontiguousarray(a.reshape(len(a), -1, COLUMNS).swapaxes(0, 1))
    rows = b.reshape(-1, COLUMNS, b.shape[1])
    for matrix in (blocks, rows):
        matrix.flags.writeable = False
    return blocks, rows


def made_up_adapter(room: AdapterRoom, seed: int, size: float = 0.02) -> Adapter:
    """An adapter of random numbers at full rank on everything: for measuring, and for comparing rows."""
    random = np.random.default_rng(seed)

    def drawn(*shape: int) -> Matrix:
        return random.standard_normal(shape, np.float32) * np.float32(size)

    changes: dict[tuple[int, tuple[str, ...]], LowRank] = {
        (layer, (part.role,)): LowRank(drawn(room.rank, projection.inputs), drawn(part.outputs, room.rank))
        for layer in range(room.num_layers)
        for projection in room.projections
        for part in projection.parts
    }
    return fitted(PeftAdapter(f"made-up-{seed}", f"made up {seed}", changes), room)
