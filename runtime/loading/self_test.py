"""Does this session compute the package's model? Its logits against the package's golden rows, before serving.

Masks, positions, slot addresses and cache updates of a plan cannot be proven without running it; a wrong one gives
fluent nonsense, not an error. So a script of calls that uses all of them runs first. Owns the limits.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np

from runtime.errors import PackageError, PlanError
from runtime.loading.golden_script import golden_calls, last_rows, moved_rows
from runtime.package.golden import GoldenRows, read_golden
from runtime.package.manifest import Package
from runtime.session.distribution import Float64Array, gathered_kl, gathered_log_probs, kl_divergence, log_softmax
from runtime.session.session import FloatArray, Session

_LOG = logging.getLogger("powertrain.self_test")


@dataclass(frozen=True, slots=True)
class KlLimits:
    """Nats, on average and for the worst row."""

    mean: float
    worst: float


_TEN_BITS, _SEVEN_BITS = KlLimits(0.002, 0.05), KlLimits(0.02, 0.2)
LIMITS = {"float32": _TEN_BITS, "float16": _TEN_BITS, "bfloat16": _SEVEN_BITS}
"""By what a graph computes in; float32 is TensorFloat-32 on most GPUs, with float16's precision. On the default model
rounding alone, emulated on the CPU, costs 0.00002 and 0.0002 in float16, int8 and int4 weights included (over a slot's
last rows 0.006), and 0.001 and 0.011 (0.021) in bfloat16. docs/gpu-reference.md has what faults cost."""

MOVED_KL = 1e-4
"""Nats between a slot and its copy: the same kernels on the same numbers, whose bits are expected to be equal. A copy
without its last row costs 0.0008 at worst on the default model, which rounding to bfloat16 would hide."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """Mean and worst KL(golden || session) in nats over the script's rows, and the share of equal best tokens.

    ``max_last_kl`` is the worst KL between prefill and decode over a slot's last rows, ``max_moved_kl`` between a slot
    and its copy.
    """

    num_rows: int
    mean_kl: float
    max_kl: float
    max_last_kl: float
    max_moved_kl: float
    top1: float

    def explain(self) -> str:
        """One line for the log."""
        return (
            f"self-test: {self.num_rows} golden rows, mean KL {self.mean_kl:.5f} nats, worst {self.max_kl:.4f}, "
            f"same best token {self.top1:.0%}; a slot's last rows by prefill and by decode {self.max_last_kl:.4f}, "
            f"a slot and its copy {self.max_moved_kl:.2g}"
        )


def compare_with_golden(session: Session, golden: GoldenRows) -> Agreement:
    """Run the script. The slots' contents are void afterwards. Raises PlanError if a slot has room for no row."""
    kl: list[float] = []
    same: list[bool] = []
    for rows, logits in golden_calls(session, golden):
        tokens = golden.rows.best[rows]
        kl += gathered_kl(_reference(golden, rows), gathered_log_probs(logits, tokens)).tolist()
        same += (logits.argmax(axis=-1) == tokens[:, 0]).tolist()
    if not kl:
        raise PlanError(f"a slot of {session.info.max_model_len} tokens has room for none of the package's golden rows")
    moved = moved_rows(session, golden)
    return Agreement(
        num_rows=len(kl),
        mean_kl=float(np.mean(kl)),
        max_kl=float(np.max(kl)),
        max_last_kl=_worst_kl(*last_rows(session, golden)),
        max_moved_kl=0.0 if moved is None else _worst_kl(*moved),
        top1=float(np.mean(same)),
    )


def _worst_kl(logits: FloatArray, others: FloatArray) -> float:
    return float(kl_divergence(log_softmax(logits), log_softmax(others)).max())


def _reference(golden: GoldenRows, rows: list[int]) -> tuple[Float64Array, Float64Array]:
    return golden.rows.log_probs[rows].astype(np.float64), golden.rows.log_rest[rows].astype(np.float64)


def check_session(session: Session, package: Package, float_type: str) -> Agreement:
    """Compare a session on a graph that computes in ``float_type`` with the package's golden rows.

    Raises PlanError on a difference, and when there is nothing to compare with.
    """
    what = f"backend {session.info.backend}"
    try:
        golden = read_golden(package)
    except PackageError as error:
        raise PlanError(f"{what} cannot be checked: {error}, or start with --no-self-test") from error
    agreement = compare_with_golden(session, golden)
    _LOG.info("%s %s", what, agreement.explain())
    check_agreement(agreement, LIMITS[float_type], what)
    return agreement


def check_agreement(agreement: Agreement, limits: KlLimits, what: str) -> None:
    """Raise PlanError unless every KL figure is a number within its limit."""
    mean, worst, last, moved = agreement.mean_kl, agreement.max_kl, agreement.max_last_kl, agreement.max_moved_kl
    if not (mean <= limits.mean and worst <= limits.worst and last <= limits.worst and moved <= MOVED_KL):
        raise PlanError(
            f"{what} does not compute this package's model: KL against its golden rows is {mean:.3g} nats on average "
            f"and {worst:.3g} at worst, over a slot's last rows {last:.3g}; the limits are {limits.mean:g} and "
            f"{limits.worst:g}; a slot and its copy differ by {moved:.3g}, the limit is {MOVED_KL:g}; "
            "serve with --backend cpu, and build the plan again for this GPU and library"
        )
