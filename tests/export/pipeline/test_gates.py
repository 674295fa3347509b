"""Gates: what their expressions mean, which packages they hold for, and what comes of them."""

from __future__ import annotations

import math

import pytest

from export.errors import PipelineError
from export.pipeline.amounts import exact_size_text, parse_size
from export.pipeline.config import GateTable
from export.pipeline.gate_rules import Gated, chosen_gates
from export.pipeline.gates import Gate, Measures, Subject, held_to, parse_bound

PACKAGES = [Gated("a", "int8", ("sm89",)), Gated("a", "int4", ()), Gated("bee", "int4", ("sm89", "sm120"))]


@pytest.mark.parametrize(
    ("key", "text", "baseline", "limit"),
    [
        ("max_kl", 0.02, None, 0.02),
        ("min_accuracy", " .5 ", None, 0.5),
        ("max_size", "1.5 MiB", None, 1_572_864),
        ("max_size", "2GB", None, 2_000_000_000),
        ("max_size", 1000, None, 1000),
        ("max_size", "baseline", 200.0, 200),
        ("max_size", "1.05 * baseline", 200.0, 210),
        ("max_size", "2*baseline - 1 KiB", 1024.0, 1024),
        ("max_kl", "baseline + 1e-3", 0.25, 0.251),
        ("min_accuracy", "baseline - 0.25", 0.75, 0.5),
        ("min_accuracy", "baseline - 0.25", None, None),
    ],
)
def test_a_limit_by_hand(key: str, text: float | str, baseline: float | None, limit: float | None) -> None:
    assert parse_bound(key, text, "").limit(baseline) == limit


@pytest.mark.parametrize(
    ("key", "text"),
    [("max_kl", "2 MiB"), ("max_size", "2 mb"), ("max_size", "-1"), ("max_kl", -0.1), ("max_kl", math.nan),
     ("max_kl", math.inf), ("max_kl", "1e999"), ("max_kl", "baseline * 2"), ("max_kl", "2 baseline"),
     ("max_size", "baseline + 1 mb"), ("max_kl", ""), ("max_kl", "other * 2")],
)  # fmt: skip
def test_what_is_no_limit_is_refused(key: str, text: float | str) -> None:
    with pytest.raises(PipelineError, match=rf"here, key '{key}': .* is no limit; give "):
        parse_bound(key, text, "here")


def found(
    key: str, text: float | str, value: float | None, baseline: float | None = None, unmeasured: str = "fail"
) -> tuple[str, bool, str]:
    gate = Gate(key, None, parse_bound(key, text, ""), unmeasured)  # type: ignore[arg-type]
    name = gate.metric.name
    measured: dict[Subject, Measures] = {("p", None): {} if value is None else {name: value}, ("q", None): {name: 0.0}}
    old: dict[Subject, Measures] = {} if baseline is None else {("p", None): {name: baseline}}
    (finding,) = held_to([gate], "p", measured, old)
    return finding.outcome, finding.passes, finding.text


def test_what_comes_of_a_gate() -> None:
    assert found("max_kl", 0.5, 0.5) == ("held", True, "mean KL [nats per token] is 0.5, max_kl is 0.5")
    assert found("max_kl", 0.5, 0.500001)[:2] == ("broken", False)
    assert found("max_kl", 0.5, math.nan)[:2] == ("broken", False)
    assert found("min_accuracy", 0.5, math.nan)[:2] == ("broken", False)
    assert found("min_accuracy", 0.5, 0.5)[:2] == ("held", True)
    assert found("min_tokens_per_s", 20, 19.5) == (
        "broken", False, "tokens per second is 19.5, min_tokens_per_s is 20")  # fmt: skip
    assert found("max_size", "1.5 * baseline", 2.0**21, 2.0**20) == (
        "broken", False, "size is 2.00 MiB, max_size is 1.5 * baseline = 1.50 MiB")  # fmt: skip


def test_what_is_not_measured_passes_only_where_the_file_says_so() -> None:
    words = "accuracy was not measured, min_accuracy is 0.5"
    assert found("min_accuracy", 0.5, None) == ("not measured", False, words)
    assert found("min_accuracy", 0.5, None, unmeasured="report") == ("not measured", True, words)
    outcome, passes, text = found("max_kl", "baseline", 0.25)
    assert (outcome, passes) == ("not measured", False)
    assert text == (
        "mean KL [nats per token] is 0.25, max_kl is baseline, and the baseline has no such figure; "
        "give the JSON of an earlier build with --baseline"
    )
    assert found("max_kl", 0.1, 0.25, unmeasured="report")[:2] == ("broken", False)


def test_a_plans_gate_asks_for_the_plans_figures() -> None:
    gate = Gate("max_size", "sm89", parse_bound("max_size", "baseline", ""), "fail")
    measured = {("p", None): {"size": 9.0}, ("p", "sm89"): {"size": 5.0}, ("p", "sm120"): {"size": 9.0}}
    (finding,) = held_to([gate], "p", measured, {("p", None): {"size": 1.0}, ("p", "sm89"): {"size": 5.0}})
    assert (finding.outcome, finding.measured, finding.limit, finding.target) == ("held", 5.0, 5.0, "sm89")
    assert finding.text.startswith("size on sm89 is 5 B")


def limits(*tables: GateTable) -> list[dict[tuple[str, str | None], str]]:
    return [{(gate.key, gate.target): gate.bound.text for gate in gates} for gates in chosen_gates(tables, PACKAGES)]


def test_tables_hold_for_what_has_their_values_and_later_ones_go_first() -> None:
    assert limits(
        GateTable(max_kl=0.02, max_size="1 GiB"),
        GateTable(precision="int4", max_kl=0.5),
        GateTable(model="bee", precision="int4", max_kl=0.6),
        GateTable(target="sm89", max_size="2 GiB"),
    ) == [
        {("max_kl", None): "0.02", ("max_size", None): "1 GiB", ("max_size", "sm89"): "2 GiB"},
        {("max_kl", None): "0.5", ("max_size", None): "1 GiB"},
        {("max_kl", None): "0.6", ("max_size", None): "1 GiB", ("max_size", "sm89"): "2 GiB"},
    ]


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (GateTable(), "number 1 holds no limit; give one of max_kl, max_size"),
        (GateTable(model="be", max_kl=1.0), r"number 1, key 'model': 'be' is not among a, bee. Did you mean 'bee'\?"),
        (GateTable(precision="int5", max_kl=1.0), "key 'precision': 'int5' is not among int8, int4"),
        (GateTable(target="sm90", max_kl=1.0), "key 'target': 'sm90' is not among sm89, sm120"),
        (GateTable(model="a", target="sm120", max_kl=1.0), "number 1 means no package"),
        (GateTable(target="sm89", min_accuracy=1.0), "'min_accuracy': of a target's plan only max_kl, max_size, min_"),
    ],
)
def test_a_table_that_cannot_be_meant_is_refused(table: GateTable, words: str) -> None:
    with pytest.raises(PipelineError, match=words):
        chosen_gates([table], PACKAGES)


def test_sizes_are_read_and_told_to_the_byte_where_it_matters() -> None:
    sizes = {"1 KiB": 1024, "1e3": 1000, "3 MB": 3_000_000, "1 kb": None, "x": None, "1 MiB 2": None}
    assert {text: parse_size(text) for text in sizes} == sizes
    assert [exact_size_text(count) for count in (812, 1536, 1.5 * 2**20, 1.25 * 2**30)] == [
        "812 B", "1.50 KiB", "1.50 MiB", "1.250 GiB"]  # fmt: skip
