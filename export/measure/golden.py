"""Golden rows of a package that a GPU may run: its own stored weights, computed in float32 on the CPU.

Owns the texts and the places in them. The runtime's side is ``runtime.package.golden`` (the file) and
``runtime.loading.self_test``, which says what a fault costs at these places. The float32 graph is the ``ort``
dialect's, whole or layer by layer as memory allows; bfloat16 weights, which the CPU cannot multiply, are float32
numbers here.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from runtime.package import graph_io
from runtime.package.golden import GOLDEN_FILE, NUM_BEST, Distributions, GoldenRows, golden_bytes, golden_info
from runtime.package.manifest import GoldenInfo
from runtime.session.distribution import best_tokens, gathered_log_probs

from export.checkpoint.checkpoint import Checkpoint
from export.checkpoint.precision import EXACT, PrecisionPlan
from export.checkpoint.spec import DecoderSpec
from export.errors import QualityError
from export.graph.ort.graph import write_ort_graph
from export.graph.trt.stored import StoredCheckpoint
from export.graph.writer import GRAPH_FILE
from export.measure.layerwise import LayerwiseTwin
from export.measure.memory import TextSize, golden_way
from export.measure.quality import F32, I64, text_windows
from export.measure.sessions import open_in_bulk
from export.progress import Reporter, SilentReporter

LONG_TOKENS = 3072
"""Length of the long text, where the context is that long: beyond it a wrong position would have to start late."""
_RUN = 16
_RUN_ENDS = (32, 528, 1040, 2064)
"""Where the long text has runs of rows: at its start, over a chunk's end of 512 tokens, beyond the context that many
models were first trained with; another lies at its end."""
_SHORT_LENGTHS = (80, 61, 112, 47)
_SHORT_ROWS = (40, 32, 32, 32)
"""Rows at the end of each short text. The first text has some more, for a slot that is moved."""
_PERIOD = 9


class GoldenMaker:
    """Makes the golden rows of a package for contexts of up to ``max_model_len`` tokens.

    Nothing is computed before ``write``; ``way`` says what that takes.
    """

    def __init__(self, spec: DecoderSpec, max_model_len: int, tokenizer_json: str, available_bytes: int) -> None:
        self._max_model_len, self._texts = max_model_len, golden_texts(tokenizer_json, spec.vocab_size, max_model_len)
        lengths = [len(text) for text in self._texts]
        size = TextSize(sum(lengths), max(lengths))
        self.way = golden_way(replace(spec, tied_head=False), max_model_len, size, available_bytes)

    def write(
        self, checkpoint: Checkpoint, plan: PrecisionPlan, partial: Path, scratch: Path, reporter: Reporter
    ) -> GoldenInfo:
        """Write the file below ``partial``, of ``checkpoint`` as ``plan``, the GPU graph's, stores it.

        Graphs that are needed on the way lie below ``scratch`` and are removed. Raises QualityError if a logit is not
        finite.
        """
        stored = StoredCheckpoint(checkpoint, plan)
        golden = golden_rows(
            stored, self._texts, self._max_model_len, scratch, is_whole=self.way.is_whole, reporter=reporter
        )
        shutil.rmtree(scratch, ignore_errors=True)
        (partial / GOLDEN_FILE).write_bytes(golden_bytes(golden))
        return golden_info(golden)


def golden_texts(tokenizer_json: str, vocab_size: int, max_model_len: int) -> tuple[I64, ...]:
    """A long text and four short ones, int64 [at most ``max_model_len``] each.

    The long one is the built-in texts one after the other, over again where the context is longer. The short ones are
    a few random tokens over and over: a language model copies what it has seen repeat, so its next token hangs on
    which rows it attends to.
    """
    natural = np.concatenate(list(text_windows(tokenizer_json)))
    texts = [np.resize(natural, min(LONG_TOKENS, max_model_len))]
    for seed, length in enumerate(_SHORT_LENGTHS):
        period = np.random.default_rng([20, seed]).integers(0, vocab_size, _PERIOD)
        texts.append(np.resize(period, min(length, max_model_len)))
    return tuple(texts)


def golden_places(texts: Sequence[I64]) -> list[I64]:
    """Positions of each text that get a row, ascending, int64 each."""
    length = len(texts[0])
    ends = [end for end in _RUN_ENDS if end + _RUN < length] + [length]
    runs = [np.arange(max(0, end - _RUN), end) for end in ends]
    tails = [np.arange(max(1, len(text) - rows), len(text)) for text, rows in zip(texts[1:], _SHORT_ROWS, strict=True)]
    return [np.concatenate(runs), *tails]


def golden_rows(
    stored: Checkpoint, texts: tuple[I64, ...], max_model_len: int, folder: Path, *, is_whole: bool, reporter: Reporter
) -> GoldenRows:
    """The rows of ``stored``, by one float32 graph or one of a layer at a time, written below ``folder``.

    Raises QualityError if a logit is not finite.
    """
    places = golden_places(texts)
    make = _whole_logits if is_whole else _layerwise_logits
    parts: list[Distributions] = []
    with reporter.stage("Computing golden rows", len(texts)) as advance:
        for logits in make(stored, texts, places, max_model_len, folder):
            parts.append(_distributions(logits))
            advance(1)
    marked = [np.stack([np.full(len(rows), text), rows], axis=1) for text, rows in enumerate(places)]
    return GoldenRows(
        texts=texts,
        places=np.concatenate(marked),
        rows=Distributions(
            best=np.concatenate([part.best for part in parts]),
            log_probs=np.concatenate([part.log_probs for part in parts]),
            log_rest=np.concatenate([part.log_rest for part in parts]),
        ),
    )


def _distributions(logits: F32) -> Distributions:
    if not np.isfinite(logits).all():
        raise QualityError("the stored weights give NaN or infinite logits; the checkpoint is broken")
    best = best_tokens(logits, min(NUM_BEST, logits.shape[1]))
    log_probs, log_rest = gathered_log_probs(logits, best)
    return Distributions(best, log_probs.astype(np.float32), log_rest.astype(np.float32))


def _whole_logits(
    stored: Checkpoint, texts: Sequence[I64], places: Sequence[I64], max_model_len: int, folder: Path
) -> Iterator[F32]:
    """Logits float32 [rows of the text, V], text by text."""
    write_ort_graph(stored, EXACT, max_model_len, folder, SilentReporter())
    session, spec = open_in_bulk(folder / GRAPH_FILE), stored.spec
    for text, rows in zip(texts, places, strict=True):
        length = len(text)
        empty = np.zeros((1, spec.num_kv_heads, length, spec.head_dim), np.float32)
        feeds = {
            graph_io.INPUT_IDS: text[None, :],
            graph_io.SEQLENS_K: np.array([length - 1], np.int32),
            graph_io.TOTAL_SEQUENCE_LENGTH: np.array(length, np.int32),
            graph_io.LOGITS_INDICES: rows,
            **{past: empty for past, _ in graph_io.cache_names(spec.num_layers)},
        }
        yield np.asarray(session.run([graph_io.LOGITS], feeds)[0], np.float32)


def _layerwise_logits(
    stored: Checkpoint, texts: Sequence[I64], places: Sequence[I64], max_model_len: int, folder: Path
) -> Iterator[F32]:
    """The same, in one layer's memory."""
    return LayerwiseTwin(stored, max_model_len, folder, SilentReporter()).logits(texts, places)
