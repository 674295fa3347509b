"""Room for low-rank adapters in a package's graph: which projections take one, of which rank, and what scales it.

An adapter adds ``b (a x)`` to a projection's output: two more inputs of the graph per projection and layer
(``runtime.package.graph_io``). Sizes only; knows no adapter's file and no weights.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from runtime.package.limits import Name, Width

COLUMNS = 16
"""An adapter's inner width comes in blocks of so many columns. ONNX Runtime's matrix product splits wider ones among
threads by columns or by rows, as the number of tokens makes it, and then adds in another order: a prompt's rows would
depend on how it was cut."""

MAX_RANK = 512

Rank = Annotated[int, Meta(ge=1, le=MAX_RANK)]
RANK_DEFAULT = 16

ROLES = ("q", "k", "v", "o", "gate", "up", "down")
"""The matrices of a layer that adapters may change, by their canonical names."""


class AdapterPart(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One matrix of a projection: its outputs are ``outputs`` columns of the projection's from ``start`` on.

    What an adapter adds there is multiplied by ``scale``, as the graph's own weights were.
    """

    role: Name
    start: Annotated[int, Meta(ge=0, le=2**20)]
    outputs: Annotated[int, Meta(ge=1, le=2**20)]
    scale: float = 1.0


class AdapterProjection(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A projection of every layer, such as ``qkv``, and those of its matrices that an adapter may change."""

    name: Name
    inputs: Annotated[int, Meta(ge=1, le=2**20)]
    outputs: Annotated[int, Meta(ge=1, le=2**20)]
    parts: Annotated[tuple[AdapterPart, ...], Meta(min_length=1, max_length=3)]


class AdapterRoom(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the ``ort`` graph takes: adapters of up to ``rank``, on these projections of each layer."""

    rank: Rank
    num_layers: Width
    projections: tuple[AdapterProjection, ...]

    @property
    def roles(self) -> tuple[str, ...]:
        """The matrices that an adapter may change, in a layer's order."""
        return tuple(part.role for projection in self.projections for part in projection.parts)

    def blocks(self, projection: AdapterProjection) -> int:
        """Blocks of ``COLUMNS`` columns that all parts of a projection take at full rank."""
        return -(-len(projection.parts) * self.rank // COLUMNS)

    @property
    def adapter_bytes(self) -> int:
        """Bytes of one adapter's float32 matrices as the graph takes them, whatever its own rank."""
        widths = (self.blocks(one) * COLUMNS * (one.inputs + one.outputs) for one in self.projections)
        return 4 * self.num_layers * sum(widths)
