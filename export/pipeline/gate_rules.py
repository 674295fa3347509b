"""The ``[[gate]]`` tables of a pipeline -> the gates of each of its packages. What a gate is, ``gates`` says."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from runtime.did_you_mean import did_you_mean

from export.errors import PipelineError
from export.pipeline.config import GateTable
from export.pipeline.gates import METRICS, Gate, parse_bound


@dataclass(frozen=True, slots=True)
class Gated:
    """A package that tables may mean: its model's name, its precision and the targets of its plans, as in the file."""

    model: str
    precision: str
    targets: tuple[str, ...]


def chosen_gates(tables: Sequence[GateTable], packages: Sequence[Gated]) -> list[tuple[Gate, ...]]:
    """The gates of each package, in the order of the file; a later table's key goes before an earlier one's.

    Raises PipelineError for a table that means no package, holds nothing, or has a bound that is none.
    """
    found: list[dict[tuple[str, str | None], Gate]] = [{} for _ in packages]
    for number, table in enumerate(tables, 1):
        where = f"[[gate]] number {number}"
        gates = list(_gates(table, where))
        if not gates:
            raise PipelineError(f"{where} holds no limit; give one of {', '.join(METRICS)}")
        meant = [index for index, package in enumerate(packages) if _means(table, package)]
        if not meant:
            _explain_nothing(table, packages, where)
        for index in meant:
            found[index] |= {(gate.key, gate.target): gate for gate in gates}
    return [tuple(gates.values()) for gates in found]


def _gates(table: GateTable, where: str) -> Iterator[Gate]:
    for key, metric in METRICS.items():
        value = getattr(table, key)
        if value is None:
            continue
        if table.target is not None and not metric.of_plans:
            plans = ", ".join(name for name, one in METRICS.items() if one.of_plans)
            raise PipelineError(f"{where}, key {key!r}: of a target's plan only {plans} can be asked for")
        yield Gate(key, table.target, parse_bound(key, value, where), table.unmeasured)


def _means(table: GateTable, package: Gated) -> bool:
    return (
        table.model in {None, package.model}
        and table.precision in {None, package.precision}
        and (table.target is None or table.target in package.targets)
    )


def _explain_nothing(table: GateTable, packages: Sequence[Gated], where: str) -> None:
    """Raise PipelineError with the value that nothing has, if it is one value's fault."""
    _known("model", table.model, (one.model for one in packages), where)
    _known("precision", table.precision, (one.precision for one in packages), where)
    _known("target", table.target, (target for one in packages for target in one.targets), where)
    raise PipelineError(f"{where} means no package; take it out, or give values that occur together")


def _known(key: str, word: str | None, words: Iterable[str], where: str) -> None:
    known = list(dict.fromkeys(words))
    if word is not None and word not in known:
        there = ", ".join(known) or "none"
        raise PipelineError(f"{where}, key {key!r}: {word!r} is not among {there}.{did_you_mean(word, known)}")
