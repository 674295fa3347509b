"""Does this session compute the package's model? Logits of a GPU session against the CPU graph's, before serving.

Masks, positions, slot addresses and cache updates of an engine cannot be proven without running it; a wrong one gives
fluent nonsense, not an error. So a short script of calls that uses all of them runs on both.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np

from runtime.engine_sidecar import EngineError
from runtime.kv_budget import KVPlan
from runtime.manifest import ORT_GRAPH, Package
from runtime.ort_session import OrtOptions, OrtSession
from runtime.session import FloatArray, Int64Array, Session

_LOG = logging.getLogger("powertrain.self_test")

NUM_TOKENS = 64
"""Cache rows that the script needs in each of two slots."""

MAX_MEAN_KL = 0.1
"""Nats per row. Half precision against the CPU's int8 arithmetic stays below 0.02 on the default model; a causal mask
aligned to the wrong corner, a cache row off by one or exchanged slots give more than 1."""

_FIRST_PROMPT = 40
_CHUNK = 24
_SECOND_PROMPT = 21
_DECODE_STEPS = 6


@dataclass(frozen=True, slots=True)
class Agreement:
    """Mean and worst KL(reference || candidate) in nats over the script's rows, and the share of equal best tokens."""

    num_rows: int
    mean_kl: float
    max_kl: float
    top1: float

    def explain(self) -> str:
        """One line for the log."""
        return (
            f"self-test: {self.num_rows} rows, mean KL {self.mean_kl:.4f} nats, worst {self.max_kl:.4f}, "
            f"same best token {self.top1:.0%}"
        )


def compare_sessions(candidate: Session, reference: Session) -> Agreement:
    """Run the script on both. The slots' contents are void afterwards."""
    vocab_size = candidate.info.vocab_size
    tokens = np.random.default_rng(20).integers(0, vocab_size, 4 * NUM_TOKENS)  # any text will do, but always the same
    ours, theirs = (_script_rows(session, tokens) for session in (candidate, reference))
    log_p, log_q = _log_softmax(theirs), _log_softmax(ours)
    kl = (np.exp(log_p) * (log_p - log_q)).sum(axis=-1)
    return Agreement(
        num_rows=len(kl),
        mean_kl=float(kl.mean()),
        max_kl=float(kl.max()),
        top1=float((log_p.argmax(axis=-1) == log_q.argmax(axis=-1)).mean()),
    )


def check_against_cpu(session: Session, package: Package, threads: int) -> Agreement:
    """Compare with the package's ``ort`` graph on the CPU. Raises EngineError on a difference or without that graph."""
    what = f"backend {session.info.backend}"
    graph = package.manifest.graphs.get(ORT_GRAPH)
    if graph is None:
        raise EngineError(
            f"{what} cannot be checked, the package holds no graph for the CPU; export with --dialect ort,trt"
        )
    kv = KVPlan(num_slots=2, slot_tokens=NUM_TOKENS, bytes_per_token=0, budget_bytes=0)
    options = OrtOptions(intra_op_threads=threads)
    reference = OrtSession(package.path(graph.path), package.manifest.shape, kv, options, graph.kv_dtype)
    try:
        agreement = compare_sessions(session, reference)
    finally:
        reference.close()
    _LOG.info("%s %s", what, agreement.explain())
    check_agreement(agreement, what)
    return agreement


def check_agreement(agreement: Agreement, what: str, max_mean_kl: float = MAX_MEAN_KL) -> None:
    """Raise EngineError unless the mean KL is a number within the limit."""
    if not agreement.mean_kl <= max_mean_kl:
        raise EngineError(
            f"{what} does not compute this package's model: mean KL {agreement.mean_kl:.3g} nats against the CPU, "
            f"the limit is {max_mean_kl}; serve with --backend cpu, and build the engine again for this GPU and library"
        )


def _script_rows(session: Session, tokens: Int64Array) -> FloatArray:
    """Logits [rows, V] of: a prompt in two chunks, another slot's prompt, ragged decode steps of both, a moved slot."""
    num_slots = min(2, session.info.num_slots)
    first, second = tokens[:_FIRST_PROMPT], tokens[_FIRST_PROMPT : _FIRST_PROMPT + _SECOND_PROMPT]
    rows = [session.prefill(0, first[:_CHUNK], 0, 1).copy()]
    rows.append(session.prefill(0, first[_CHUNK:], _CHUNK, 2).copy())
    lengths = [_FIRST_PROMPT]
    if num_slots == 2:
        rows.append(session.prefill(1, second, 0, 1).copy())
        lengths.append(_SECOND_PROMPT)
    supply = iter(tokens[_FIRST_PROMPT + _SECOND_PROMPT :].tolist())
    for step in range(_DECODE_STEPS):
        ids = np.array([next(supply) for _ in lengths], np.int64)
        rows.append(session.decode(0, ids, np.array(lengths, np.int64) + step).copy())
    if num_slots == 2:
        session.swap_slots(0, 1, _FIRST_PROMPT + _DECODE_STEPS)
        ids = np.array([next(supply)], np.int64)
        rows.append(session.decode(1, ids, np.array([_FIRST_PROMPT + _DECODE_STEPS])).copy())
    return np.concatenate(rows)


def _log_softmax(logits: FloatArray) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    result: np.ndarray[tuple[int, ...], np.dtype[np.float64]] = shifted - np.log(
        np.exp(shifted).sum(axis=-1, keepdims=True)
    )
    return result
