"""What an adapter changes, by layer and role: low-rank matrices, as they were trained. Knows no file and no graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from runtime.adapter import Matrix
from runtime.errors import AdapterError


@dataclass(frozen=True, slots=True, eq=False)
class LowRank:
    """What is added to a matrix [out, in]: ``b @ a``, ``a`` [rank, in], ``b`` [out, rank] with the scale in it."""

    a: Matrix
    b: Matrix


@dataclass(frozen=True, slots=True, eq=False)
class PeftAdapter:
    """``changes`` by (layer, roles): most have one role; a fused module's ``b`` has the rows of all of its roles.

    ``digest`` is the sha256 over both files.
    """

    name: str
    digest: str
    changes: Mapping[tuple[int, tuple[str, ...]], LowRank] = field(repr=False)

    def by_role(self, outputs: Mapping[str, int], num_layers: int) -> dict[tuple[int, str], LowRank]:
        """The changes by (layer, role). ``outputs`` has each matrix's rows. Raises AdapterError where sizes differ."""
        found: dict[tuple[int, str], LowRank] = {}
        for (layer, roles), change in self.changes.items():
            if layer >= num_layers:
                raise AdapterError(f"{self.name}: it changes layer {layer}, the model has layers 0 to {num_layers - 1}")
            rows = [outputs[role] for role in roles]
            if sum(rows) != len(change.b):
                raise AdapterError(
                    f"{self.name}: {'+'.join(roles)} of layer {layer} has {len(change.b)} outputs, the model's has "
                    f"{sum(rows)}; it was trained for another model"
                )
            start = 0
            for role, count in zip(roles, rows, strict=True):
                found[layer, role] = LowRank(change.a, change.b[start : start + count])
                start += count
        return found
