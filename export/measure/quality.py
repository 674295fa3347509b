"""How much a graph lost against the float32 graph of the same checkpoint, measured on the texts beside this module.

Each text is cut into windows of 512 tokens that start from an empty cache; every token's distribution of one graph is
compared with the other's in float64. Knows packages' graphs through ``runtime.package.graph_io``, and no checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
from runtime.package import dtypes, graph_io
from runtime.package.manifest import ModelShape, Quality
from runtime.session.distribution import kl_divergence, log_softmax
from tokenizers import Tokenizer

from export.errors import QualityError
from export.progress import Reporter

WINDOW_TOKENS = 512
TEXT_NAME = "powertrain texts 1"

BAND_ROWS = 32
"""Rows of two distributions that are compared at once, in float64."""

_TEXT_FOLDER = "texts"

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Per token: KL(reference || graph) in nats, whether both prefer one token; and negative log-likelihoods in nats.

    float64 [tokens], bool [tokens], and float64 [tokens that have a next one] of either side.
    """

    kl: F64
    agrees: npt.NDArray[np.bool_]
    reference_nll: F64
    nll: F64


def measure_quality(
    reference: Iterator[F32],
    graph: Path,
    *,
    windows: Sequence[I64],
    shape: ModelShape,
    max_mean_kl: float,
    reporter: Reporter,
) -> Quality:
    """Run ``graph`` over ``windows``, whose float32 logits [T, V] are ``reference``.

    Raises QualityError if logits are not finite.
    """
    runner = GraphRunner(graph, shape)
    logits = (runner.logits(window) for window in windows)
    return compare_logits(reference, logits, windows=windows, max_mean_kl=max_mean_kl, reporter=reporter)


def compare_logits(
    reference: Iterator[F32],
    logits: Iterator[F32],
    *,
    windows: Sequence[I64],
    max_mean_kl: float,
    reporter: Reporter,
) -> Quality:
    """The report on ``logits`` against ``reference``, both float32 [T, V] window by window.

    Raises QualityError if logits are not finite.
    """
    parts = []
    with reporter.stage("Measuring quality against float32", len(windows)) as advance:
        for window in windows:
            parts.append(compare(next(reference), next(logits), window))
            advance(1)
    kl = np.concatenate([part.kl for part in parts])
    return Quality(
        text=TEXT_NAME,
        num_tokens=len(kl),
        mean_kl=_rounded(kl.mean()),
        p99_kl=_rounded(np.quantile(kl, 0.99)),
        top1_agreement=_rounded(np.concatenate([part.agrees for part in parts]).mean()),
        perplexity=_rounded(np.exp(np.concatenate([part.nll for part in parts]).mean())),
        reference_perplexity=_rounded(np.exp(np.concatenate([part.reference_nll for part in parts]).mean())),
        max_mean_kl=max_mean_kl,
    )


def check_quality(quality: Quality, name: str) -> None:
    """Raise QualityError if the mean KL is above its limit."""
    if not quality.mean_kl <= quality.max_mean_kl:
        raise QualityError(
            f"{name}: mean KL against float32 is {quality.mean_kl:.4f} nats per token, the limit is "
            f"{quality.max_mean_kl:g} (top-1 agreement {quality.top1_agreement:.1%}); "
            "choose a higher precision or raise max_mean_kl"
        )


def text_windows(tokenizer_json: str, length: int = WINDOW_TOKENS) -> Iterator[I64]:
    """Token ids int64 [T <= length] of the built-in texts, text by text; a lone last token is left out."""
    tokenizer = Tokenizer.from_str(tokenizer_json)
    folder = resources.files(__package__) / _TEXT_FOLDER
    for text in sorted((item for item in folder.iterdir() if item.name.endswith(".txt")), key=lambda item: item.name):
        ids = tokenizer.encode(text.read_text(encoding="utf-8")).ids
        for start in range(0, len(ids) - 1, length):
            yield np.array(ids[start : start + length], np.int64)


def compare(reference: F32, logits: F32, window: I64) -> Comparison:
    """Compare two graphs' logits float32 [T, V] on one window of ids int64 [T], in bands to bound memory."""
    if not (np.isfinite(logits).all() and np.isfinite(reference).all()):
        raise QualityError("a graph computed NaN or infinite logits on the built-in text; its checkpoint is broken")
    kl, reference_nll, nll = [], [], []
    for start in range(0, len(window), BAND_ROWS):
        p = log_softmax(reference[start : start + BAND_ROWS])
        q = log_softmax(logits[start : start + BAND_ROWS])
        kl.append(kl_divergence(p, q))
        following = window[start + 1 : start + 1 + len(p)]
        rows = np.arange(len(following))
        reference_nll.append(-p[rows, following])
        nll.append(-q[rows, following])
    agrees = reference.argmax(axis=-1) == logits.argmax(axis=-1)
    return Comparison(np.concatenate(kl), agrees, np.concatenate(reference_nll), np.concatenate(nll))


def open_session(graph: Path) -> onnxruntime.InferenceSession:
    """A session on the CPU that gives memory back after each run."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.enable_cpu_mem_arena = False
    return onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])


class GraphRunner:
    """One graph on the CPU, run over whole windows with an empty cache."""

    def __init__(self, graph: Path, shape: ModelShape) -> None:
        self._session = open_session(graph)
        self._shape = shape
        self._kv_dtype = dtypes.BY_ORT_NAME[self._session.get_inputs()[-1].type].numpy

    def logits(self, window: I64) -> F32:
        """Logits float32 [T, V] of every token of a window int64 [T]."""
        return np.asarray(self._session.run([graph_io.LOGITS], self._feeds(window))[0], np.float32)

    def values(self, names: Sequence[str], window: I64) -> list[F32]:
        """Other outputs of the graph for a window int64 [T], whose every token wants logits."""
        return [np.asarray(value, np.float32) for value in self._session.run(list(names), self._feeds(window))]

    def cache(self, window: I64) -> list[tuple[F32, F32]]:
        """Each layer's (keys after rope, values) for a window int64 [T], float32 [H, T, D]."""
        names = [present for _, present in graph_io.cache_names(self._shape.num_layers)]
        found = [rows[0] for rows in self.values(names, window)]
        return list(zip(found[0::2], found[1::2], strict=True))

    def _feeds(self, window: I64) -> dict[str, Any]:
        """An empty cache and a whole window [T], with logits wanted of every token."""
        length = len(window)
        empty = np.zeros((1, self._shape.num_kv_heads, length, self._shape.head_dim), self._kv_dtype)
        feeds: dict[str, Any] = {
            graph_io.INPUT_IDS: window[None, :],
            graph_io.SEQLENS_K: np.array([length - 1], np.int32),
            graph_io.TOTAL_SEQUENCE_LENGTH: np.array(length, np.int32),
            graph_io.LOGITS_INDICES: np.arange(length, dtype=np.int64),
        }
        return feeds | {past: empty for past, _ in graph_io.cache_names(self._shape.num_layers)}


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")
