"""What a schema costs a step, as a value and as a table. Measures nothing."""

from __future__ import annotations

import msgspec

from bench.metrics.stats import Interval
from bench.report.tables import Table


class SchemaCost(msgspec.Struct, frozen=True):
    """Steps of ``batch`` rows with a schema against steps without: a ratio for each pair of blocks.

    ``ratio`` is their median with its 95 % interval; ``plain_us`` and ``bound_us`` are medians, us of a token of each
    row.
    """

    batch: int
    sampling: str
    steps_per_block: int
    ratios: list[float]
    ratio: Interval
    plain_us: float
    bound_us: float


def schema_table(costs: list[SchemaCost]) -> Table:
    """A row for each batch and sampling."""
    rows = tuple(
        (
            f"b{cost.batch} {cost.sampling}",
            f"{cost.plain_us / 1e3:.3f}",
            f"{cost.bound_us / 1e3:.3f}",
            f"{cost.ratio.centre:.3f}",
            f"{cost.ratio.low:.3f} to {cost.ratio.high:.3f}",
            f"{len(cost.ratios)}",
        )
        for cost in costs
    )
    columns = ("step", "without [ms]", "with [ms]", "with / without", "95 % interval", "pairs")
    return Table("A schema in whole steps, blocks in turns, medians", columns, rows)
