"""Golden rows: what the next token's distribution is at some places of some texts, computed when a package is made.

A GPU's logits are compared with them before it serves, so that neither the CPU's graph nor memory for it is needed.
They are of the package's own weights, as stored, in float32 arithmetic. Owns the file's layout, little endian, without
padding; T texts of S tokens together, N rows with the K likeliest tokens of each:

| part      | type    | shape  | meaning                                                                   |
|-----------|---------|--------|---------------------------------------------------------------------------|
| lengths   | int32   | [T]    | tokens of each text                                                       |
| ids       | int32   | [S]    | the texts' token ids, text after text                                     |
| places    | int32   | [N, 2] | text and position of the token after which the row's distribution comes   |
| best      | int32   | [N, K] | the likeliest next tokens, best first                                     |
| log_probs | float32 | [N, K] | their log-probabilities                                                   |
| log_rest  | float32 | [N]    | log of the probability of all others together, at least ``LEAST_LOG``     |

T, S, N and K stand in the manifest (``GoldenInfo``), so the file's size is known before it is read. Knows no session.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from runtime.errors import PackageError
from runtime.package import dtypes
from runtime.package.manifest import GoldenInfo, Manifest, Package
from runtime.package.plan_sidecar import TRT_GRAPH

GOLDEN_FILE = "golden.bin"
NUM_BEST = 64
"""Tokens whose probability is kept apart."""
LEAST_LOG = -100.0
"""Stands for the logarithm of a probability of 0, such as that of all others where there are none."""

_INT, _FLOAT = np.dtype("<i4"), np.dtype("<f4")
_SUM_TOLERANCE = 1e-3

Int64 = npt.NDArray[np.int64]
Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Distributions:
    """Of N rows: ``best`` int64 [N, K], ``log_probs`` float32 [N, K] and ``log_rest`` float32 [N]."""

    best: Int64
    log_probs: Float32
    log_rest: Float32


@dataclass(frozen=True, slots=True)
class GoldenRows:
    """``texts`` int64 [length] each, ``places`` int64 [N, 2] (text, position) in ascending order, and their rows."""

    texts: tuple[Int64, ...]
    places: Int64
    rows: Distributions

    def positions(self, text: int) -> list[int]:
        """Positions of a text that have a row, ascending."""
        found: list[int] = self.places[self.places[:, 0] == text, 1].tolist()
        return found

    def first_row(self, text: int) -> int:
        """Index of a text's first row."""
        return int(np.searchsorted(self.places[:, 0], text))


def golden_info(golden: GoldenRows) -> GoldenInfo:
    """What the manifest records."""
    return GoldenInfo(
        path=GOLDEN_FILE,
        num_texts=len(golden.texts),
        num_tokens=sum(map(len, golden.texts)),
        num_rows=len(golden.places),
        num_best=golden.rows.best.shape[1],
    )


def golden_bytes(golden: GoldenRows) -> bytes:
    """The file's bytes."""
    lengths = np.array([len(text) for text in golden.texts])
    rows = golden.rows
    whole = [lengths, *golden.texts, golden.places, rows.best]
    reals = [rows.log_probs, rows.log_rest]
    return b"".join([part.astype(_INT).tobytes() for part in whole] + [part.astype(_FLOAT).tobytes() for part in reals])


def lacks_golden(manifest: Manifest) -> bool:
    """Whether a GPU may run the package and cannot be checked: it was made before there were golden rows."""
    half = {dtypes.FLOAT16.name, dtypes.BFLOAT16.name}
    for_gpus = TRT_GRAPH in manifest.graphs or any(graph.kv_dtype in half for graph in manifest.graphs.values())
    return for_gpus and manifest.golden is None


def read_golden(package: Package) -> GoldenRows:
    """The package's golden rows. Raises PackageError if it has none, or for a file that cannot be what was written."""
    info, name = package.manifest.golden, package.manifest.name
    if info is None:
        raise PackageError(f"package {name!r} holds no golden rows; make it anew with this 'powertrain export'")
    sizes = _sizes(info)
    wanted = 4 * sum(int(np.prod(shape)) for shape in sizes.values())
    data = package.read_bytes(info.path, max_bytes=wanted)
    if len(data) != wanted:
        raise PackageError(f"{name}: {info.path} has {len(data)} bytes, the manifest implies {wanted}; rebuild it")
    parts: dict[str, npt.NDArray[Any]] = {}
    start = 0
    for part, shape in sizes.items():
        kind = _FLOAT if part.startswith("log") else _INT
        count = int(np.prod(shape))
        parts[part] = np.frombuffer(data, kind, count, start).reshape(shape)
        start += 4 * count
    if problem := _problem(parts, package.manifest.shape.vocab_size):
        raise PackageError(f"{name}: {info.path} {problem}; rebuild the package")
    ids = parts["ids"].astype(np.int64)
    return GoldenRows(
        texts=tuple(np.split(ids, np.cumsum(parts["lengths"])[:-1])),
        places=parts["places"].astype(np.int64),
        rows=Distributions(parts["best"].astype(np.int64), parts["log_probs"], parts["log_rest"]),
    )


def _sizes(info: GoldenInfo) -> dict[str, Sequence[int]]:
    rows, best = info.num_rows, info.num_best
    return {
        "lengths": (info.num_texts,),
        "ids": (info.num_tokens,),
        "places": (rows, 2),
        "best": (rows, best),
        "log_probs": (rows, best),
        "log_rest": (rows,),
    }


def _problem(parts: dict[str, npt.NDArray[Any]], vocab_size: int) -> str:
    """What is wrong with the numbers, or nothing. Sums are taken in int64, which those of int32 cannot overflow."""
    lengths, places, best = parts["lengths"].astype(np.int64), parts["places"].astype(np.int64), parts["best"]
    if lengths.min() < 1 or lengths.sum() != len(parts["ids"]):
        return "has texts whose lengths do not add up"
    for ids in (parts["ids"], best):
        if ids.min() < 0 or ids.max() >= vocab_size:
            return f"names a token outside the vocabulary of {vocab_size}"
    if np.any(np.diff(np.sort(best, axis=1), axis=1) == 0):
        return "names a token twice in one row"
    texts, positions = places.T
    if texts.min() < 0 or texts.max() >= len(lengths) or positions.min() < 0 or np.any(positions >= lengths[texts]):
        return "has a row outside its texts"
    if np.any(np.diff(texts * (int(lengths.max()) + 1) + positions) <= 0):
        return "has rows that are not in order"
    log_probs, log_rest = parts["log_probs"], parts["log_rest"]
    if not (np.isfinite(log_probs).all() and np.isfinite(log_rest).all()):
        return "holds values that are not finite"
    if log_rest.min() < LEAST_LOG or max(log_probs.max(), log_rest.max()) > _SUM_TOLERANCE:
        return "holds values that are no log-probabilities"
    total = np.exp(log_probs.astype(np.float64)).sum(axis=1) + np.exp(log_rest.astype(np.float64))
    if np.any(np.abs(total - 1.0) > _SUM_TOLERANCE):
        return "holds probabilities that do not add up to 1"
    return ""
