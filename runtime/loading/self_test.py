"""Does this session compute the package's model? Logits of a GPU session against the CPU graph's, before serving.

Masks, positions, slot addresses and cache updates of a plan cannot be proven without running it; a wrong one gives
fluent nonsense, not an error. So a short script of calls that uses all of them runs on both.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np

from runtime.errors import PlanError
from runtime.package.manifest import ORT_GRAPH, Package
from runtime.session.cpu.ort_session import OrtOptions, OrtSession
from runtime.session.distribution import kl_divergence, log_softmax
from runtime.session.kv_budget import KVPlan
from runtime.session.session import FloatArray, Int64Array, Session

_LOG = logging.getLogger("powertrain.self_test")

NUM_TOKENS = 64
"""Cache rows that the script needs in each of two slots."""

MAX_MEAN_KL = 0.1
MAX_ROW_KL = 0.3
"""Nats, on average and for the worst row. Measured on a model of 135 million parameters: half precision against the
CPU's int8 arithmetic 0.01 and 0.05; a chunk or a step written one row off, a slot that was not moved, or a causal mask
aligned to the wrong corner 0.08 to 9 and 0.8 to 19."""

_PERIOD = 9
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
    ours, theirs = (_script_rows(session) for session in (candidate, reference))
    log_p, log_q = log_softmax(theirs), log_softmax(ours)
    kl = kl_divergence(log_p, log_q)
    return Agreement(
        num_rows=len(kl),
        mean_kl=float(kl.mean()),
        max_kl=float(kl.max()),
        top1=float((log_p.argmax(axis=-1) == log_q.argmax(axis=-1)).mean()),
    )


def check_against_cpu(session: Session, package: Package, threads: int) -> Agreement:
    """Compare with the package's ``ort`` graph on the CPU.

    Raises PlanError on a difference, and when the package has no graph that the CPU can run: none at all, or one in
    bfloat16, for which ONNX Runtime's CPU provider has no MatMul.
    """
    what = f"backend {session.info.backend}"
    graph = package.manifest.graphs.get(ORT_GRAPH)
    if graph is None:
        raise PlanError(
            f"{what} cannot be checked, the package holds no graph for the CPU; export with --dialect ort,trt"
        )
    if "cpu" not in graph.providers:
        raise PlanError(
            f"{what} cannot be checked: the CPU cannot run the package's {graph.kv_dtype} graph; export with "
            "--precision fp16, or start with --no-self-test and compare the answers yourself"
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


def check_agreement(agreement: Agreement, what: str) -> None:
    """Raise PlanError unless both KL figures are numbers within their limits."""
    if not (agreement.mean_kl <= MAX_MEAN_KL and agreement.max_kl <= MAX_ROW_KL):
        raise PlanError(
            f"{what} does not compute this package's model: KL against the CPU is {agreement.mean_kl:.3g} nats on "
            f"average and {agreement.max_kl:.3g} at worst, the limits are {MAX_MEAN_KL} and {MAX_ROW_KL}; "
            "serve with --backend cpu, and build the plan again for this GPU and library"
        )


def _script_rows(session: Session) -> FloatArray:
    """Logits [rows, V] of: a prompt in two chunks, another slot's prompt, ragged decode steps of both, a moved slot."""
    num_slots = min(2, session.info.num_slots)
    texts = [_repeating_text(seed, session.info.vocab_size) for seed in range(num_slots)]
    lengths = [_FIRST_PROMPT, _SECOND_PROMPT][:num_slots]
    rows = [session.prefill(0, texts[0][:_CHUNK], 0, 1).copy()]
    rows.append(session.prefill(0, texts[0][_CHUNK:_FIRST_PROMPT], _CHUNK, 2).copy())
    if num_slots == 2:
        rows.append(session.prefill(1, texts[1][:_SECOND_PROMPT], 0, 1).copy())
    for _ in range(_DECODE_STEPS):
        ids = np.array([text[length] for text, length in zip(texts, lengths, strict=True)])
        rows.append(session.decode(0, ids, np.array(lengths)).copy())
        lengths = [length + 1 for length in lengths]
    if num_slots == 2:
        session.copy_slot(0, 1, lengths[0])
        rows.append(session.decode(1, texts[0][lengths[0] : lengths[0] + 1], np.array(lengths[:1])).copy())
    return np.concatenate(rows)


def _repeating_text(seed: int, vocab_size: int) -> Int64Array:
    """``_PERIOD`` random tokens over and over, int64 [NUM_TOKENS].

    A language model copies what it has seen repeat, so its next token hangs on which rows it attends to.
    """
    period = np.random.default_rng([20, seed]).integers(0, vocab_size, _PERIOD)
    return np.resize(period, NUM_TOKENS)
