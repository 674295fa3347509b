"""What a check gets: a backend that opens sessions on models, a reference for their logits, and facts of the device.

``tests.gpu.gpu_rig`` is a machine with a GPU, ``tests.gpu.host_rig`` the doubles that stand for one here, so that the
checks themselves are proven: each finds the faults that it exists for.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from runtime.loading.self_test import KlLimits
from runtime.package.manifest import Package
from runtime.session.device import Device
from runtime.session.distribution import kl_divergence, log_softmax
from runtime.session.session import FloatArray, Int64Array, Session

SLOTS = 4
"""Slots that a check asks for, unless it says otherwise."""
MAIN = "main"
"""The model that most checks use."""


class CheckFailed(AssertionError):
    """The backend does not do what it must; the text says what it did."""


@dataclass(frozen=True)
class Model:
    """A package, the float32 graph of its stored weights for the CPU, and what the backend's graph computes in.

    ``limits`` bound how far its logits may be from the reference's; ``weight_bytes`` are read per decoded token.
    """

    package: Package
    reference: Path
    float_type: str
    weight_bytes: int
    limits: KlLimits


class Rig(Protocol):
    """A backend on a device. Sessions are the caller's to close; models are kept.

    ``tokens_per_s`` is what the check of the speed measured.
    """

    tokens_per_s: float | None

    @property
    def backend(self) -> str: ...

    @property
    def precisions(self) -> tuple[str, ...]:
        """Those that the backend runs, the one that most checks use first."""
        ...

    @property
    def prefill_tokens(self) -> int:
        """Prompt tokens that one call of the graph takes."""
        ...

    def model(self, name: str = MAIN, precision: str = "") -> Model:
        """A package for the backend: ``MAIN``, or a key of ``tests.gpu.models.SHAPES``."""
        ...

    def open(self, model: Model, num_slots: int = SLOTS) -> Session:
        """A new session, not tested by itself. Raises PowertrainError."""
        ...

    def forms(self, model: Model) -> Iterator[tuple[str, Session]]:
        """A session for each form of attention that a plan of the model can have, closed as the next is asked for."""
        ...

    def eager(self, model: Model) -> contextlib.AbstractContextManager[Session | None]:
        """A session that records no step, closed at the block's end; None where a library records by itself."""
        ...

    def reference(self, model: Model, num_slots: int = SLOTS) -> Session:
        """The CPU's session on the reference graph, with slots of the same length."""
        ...

    def device(self) -> Device:
        """A device of its own on the same card; the caller closes it."""
        ...

    def exhausted(self) -> contextlib.AbstractContextManager[None]:
        """A block in which next to no memory is free on the card."""
        ...

    def free_bytes(self) -> int:
        """Memory that is free on the card."""
        ...

    def serve(self, model: Model) -> contextlib.AbstractContextManager[str]:
        """A server with this backend on loopback, ready; its base address."""
        ...

    @property
    def memory_noise_bytes(self) -> int:
        """By how much ``free_bytes`` may differ although nothing was lost: others use the card as well."""
        ...

    @property
    def compiles_at_run_time(self) -> bool:
        """Whether kernels are compiled when a session is first used, and must be kept."""
        ...

    def kernel_files(self, model: Model) -> list[Path]:
        """Where the backend keeps compiled kernels; empty for one that compiles none at run time."""
        ...

    def clock(self) -> float:
        """Seconds."""
        ...

    @property
    def soak_seconds(self) -> float: ...


@contextlib.contextmanager
def opened(rig: Rig, model: Model, num_slots: int = SLOTS) -> Iterator[Session]:
    """A session that is closed at the block's end."""
    session = rig.open(model, num_slots)
    try:
        yield session
    finally:
        session.close()


@contextlib.contextmanager
def both(rig: Rig, model: Model, num_slots: int = SLOTS) -> Iterator[tuple[Session, Session]]:
    """The backend's session and the reference."""
    with opened(rig, model, num_slots) as session:
        reference = rig.reference(model, session.info.num_slots)
        try:
            yield session, reference
        finally:
            reference.close()


def prompt(seed: int, length: int, vocab_size: int) -> Int64Array:
    """A few random tokens over and over, int64 [length]: what comes next hangs on which rows are attended to."""
    return np.resize(np.random.default_rng([21, seed]).integers(0, vocab_size, 9), length)


def worst_kl(reference: FloatArray, rows: FloatArray) -> float:
    """The largest KL(reference || rows) in nats of logits [N, V]."""
    return float(kl_divergence(log_softmax(reference), log_softmax(rows)).max())


class Comparison:
    """Collects how far rows are from the reference's, and fails at the first that is too far."""

    def __init__(self, limits: KlLimits) -> None:
        self.limits, self.worst, self.num_rows = limits, 0.0, 0

    def add(self, what: str, reference: FloatArray, rows: FloatArray) -> None:
        """Compare logits [N, V]; raises CheckFailed naming ``what``."""
        kl = worst_kl(reference, rows)
        if not kl <= self.limits.worst:
            raise CheckFailed(f"{what}: KL {kl:.3g} nats against the CPU's float32, the limit is {self.limits.worst:g}")
        self.worst, self.num_rows = max(self.worst, kl), self.num_rows + len(rows)

    def explain(self) -> str:
        return f"{self.num_rows} rows, worst KL {self.worst:.2g} nats"


def check_equal_bits(what: str, one: NDArray[np.float32], other: NDArray[np.float32]) -> None:
    """Raise CheckFailed unless both hold the same bits."""
    if not np.array_equal(one.view(np.int32), other.view(np.int32)):
        raise CheckFailed(f"{what}: the bits differ, by up to {np.abs(one - other).max():.3g}")
