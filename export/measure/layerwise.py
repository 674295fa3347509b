"""LayerwiseTwin: a checkpoint's float32 values in bounded memory, for machines that cannot hold its whole graph.

Every window's residual stream is carried through one layer at a time: the layer's graph is written to a scratch
folder, run over all windows and dropped. The head is multiplied a band of its rows at a time. Results equal the whole
graph's to rounding. Knows which graph is a layer's and nothing of what is in it.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from runtime.package import graph_io

from export.checkpoint.checkpoint import Checkpoint
from export.graph.ort.graph import LAYER_INPUT, write_layer_graph
from export.graph.writer import GRAPH_FILE
from export.measure.quality import F32, I64
from export.measure.sessions import open_in_bulk
from export.measure.twin import instrumented
from export.progress import Reporter

LOGITS_BYTES = 2**28
"""Of logits that are made with one reading of the head; a single window may have more."""

_Watch = Callable[[int, Path], tuple[Path, dict[str, str]]]
"""(layer, its graph) -> (the graph to run in its place, label -> name of each value to look at)."""


class LayerwiseTwin:
    """The Twin that holds one layer, one band of the head and the streams, float32 [1, T, hidden] per window."""

    def __init__(self, checkpoint: Checkpoint, max_model_len: int, folder: Path, reporter: Reporter) -> None:
        self._checkpoint, self._spec = checkpoint, checkpoint.spec
        self._max_model_len, self._folder, self._reporter = max_model_len, folder, reporter

    def begin(self, windows: Sequence[I64]) -> None:
        """See ``Twin``: nothing, since a layer beside what else is in memory may be too much."""
        del windows

    def logits(self, windows: Sequence[I64], wanted: Sequence[I64] | None = None) -> Iterator[F32]:
        """See ``Twin``. All layers run before this returns, so that a caller's own graph is not in memory meanwhile.

        ``wanted`` are the positions of each window that get logits, int64 each; None: all.
        """
        streams = self._embedded(windows)
        total = self._spec.num_layers * len(windows)
        with self._reporter.stage("Computing float32 layer by layer", total) as advance:
            for _ in self._run_layers(streams, lambda _layer, graph: (graph, {})):
                advance(1)
        if wanted is not None:
            streams = [stream[:, rows] for stream, rows in zip(streams, wanted, strict=True)]
        return self._head(streams)

    def caches(self, windows: Sequence[I64]) -> Iterator[tuple[int, F32, F32]]:
        """See ``Twin``."""

        def presents(layer: int, graph: Path) -> tuple[Path, dict[str, str]]:
            (_, keys), (_, values) = graph_io.layer_cache_names(layer)
            return graph, {"keys": keys, "values": values}

        for layer, seen in self._run_layers(self._embedded(windows), presents):
            yield layer, seen["keys"][0], seen["values"][0]

    def projection_inputs(self, windows: Sequence[I64]) -> Iterator[tuple[str, F32]]:
        """See ``Twin``."""
        for _, seen in self._run_layers(self._embedded(windows), lambda _layer, graph: instrumented(graph)):
            for name, rows in seen.items():
                yield name, rows[0]

    def _embedded(self, windows: Sequence[I64]) -> list[F32]:
        """What enters the first layer."""
        streams = [np.empty((1, len(window), self._spec.hidden_size), np.float32) for window in windows]
        start = 0
        for band in self._checkpoint.tensor("embedding").bands():
            for stream, window in zip(streams, windows, strict=True):
                here = np.flatnonzero((window >= start) & (window < start + len(band)))
                stream[0, here] = band[window[here] - start] * np.float32(self._spec.embedding_multiplier)
            start += len(band)
        return streams

    def _run_layers(self, streams: list[F32], watch: _Watch) -> Iterator[tuple[int, dict[str, F32]]]:
        """Replace each stream by what comes out of the last layer; yields (layer, what ``watch`` names) on the way."""
        for layer in range(self._spec.num_layers):
            output = write_layer_graph(self._checkpoint, layer, self._max_model_len, self._folder)
            graph, watched = watch(layer, self._folder / GRAPH_FILE)
            session = open_in_bulk(graph)
            made = {label: name for label, name in watched.items() if name != LAYER_INPUT}
            for index, stream in enumerate(streams):
                streams[index], *values = session.run([output, *made.values()], self._feeds(layer, stream))
                yield layer, dict.fromkeys(watched, stream) | dict(zip(made, values, strict=True))
            del session
            shutil.rmtree(self._folder)

    def _feeds(self, layer: int, stream: F32) -> dict[str, Any]:
        """A window's stream and an empty cache."""
        length = stream.shape[1]
        empty = np.zeros((1, self._spec.num_kv_heads, length, self._spec.head_dim), np.float32)
        return {
            LAYER_INPUT: stream,
            graph_io.SEQLENS_K: np.array([length - 1], np.int32),
            graph_io.TOTAL_SEQUENCE_LENGTH: np.array(length, np.int32),
            **{past: empty for past, _ in graph_io.layer_cache_names(layer)},
        }

    def _head(self, streams: list[F32]) -> Iterator[F32]:
        """Logits of what comes out of the last layer, for a few windows with each reading of the head."""
        row_bytes = 4 * self._spec.vocab_size
        while streams:
            rows, streams = streams[:1], streams[1:]
            while streams and row_bytes * sum(part.shape[1] for part in (*rows, streams[0])) <= LOGITS_BYTES:
                rows, streams = [*rows, streams[0]], streams[1:]
            yield from self._head_of(rows)

    def _head_of(self, streams: list[F32]) -> list[F32]:
        spec, start = self._spec, 0
        logits = [np.empty((stream.shape[1], spec.vocab_size), np.float32) for stream in streams]
        for band in self._checkpoint.tensor("embedding" if spec.tied_head else "head").bands():
            for stream, whole in zip(streams, logits, strict=True):
                np.matmul(stream[0], band.T, out=whole[:, start : start + len(band)])
            start += len(band)
        for whole in logits if spec.logits_softcap else ():
            np.divide(whole, np.float32(spec.logits_softcap), out=whole)
            np.tanh(whole, out=whole)
            np.multiply(whole, np.float32(spec.logits_softcap), out=whole)
        return logits
