"""Does a session here run a foreign graph, and does its cache hold what a cache must? A dozen tokens say so.

The same tokens go through whole, in pieces and one by one. Nothing is known of what the right logits are.
"""

from __future__ import annotations

import numpy as np
from runtime.errors import PowertrainError
from runtime.loading.model_loader import ModelOptions, plan_model, session_factory
from runtime.package.manifest import Package
from runtime.session.session import FloatArray, Int64Array, Session, decode_logits

from export.errors import UnsupportedError

_TOKENS, _FIRST, _SECOND = 12, 5, 9
_SLOT_TOKENS = 32
_LIMIT = 0.05
"""Of the logits' norm. Rounding of inputs to 8 bits moves them by thousandths; rows that are lost, or read from another
place, move them by their own size."""


def check_cache(package: Package) -> None:
    """Raise UnsupportedError when the package's graph does not run, or cached tokens count otherwise than new ones."""
    length = min(_SLOT_TOKENS, package.manifest.max_model_len)
    options = ModelOptions(num_slots=2, max_model_len=length)
    if length < _TOKENS:
        raise UnsupportedError(f"a context of {length} tokens is too short; {_TOKENS} at least")
    ids = np.random.default_rng(0).integers(package.manifest.shape.vocab_size, size=_TOKENS)
    try:
        session = session_factory(package, plan_model(package, options), options)()
        try:
            whole, pieces = session.prefill(0, ids, 0, _TOKENS).copy(), _in_pieces(session, ids)
        finally:
            session.close()
    except PowertrainError as error:
        reason = str(error).removeprefix(f"{package.root.name}: ").removesuffix("; rebuild the package")
        raise UnsupportedError(f"the graph does not run on the CPU: {reason}") from error
    apart = np.linalg.norm(whole - pieces) / np.linalg.norm(whole)
    if not apart <= _LIMIT:
        raise UnsupportedError(
            f"the graph's logits after cached tokens lie {apart:.0%} of their size from those without a cache, so its "
            "cache is none that can be kept"
        )


def _in_pieces(session: Session, ids: Int64Array) -> FloatArray:
    """Logits [T, V]: 5 tokens, 4 after them, and the rest one at a time, in the second slot."""
    parts = [session.prefill(1, ids[:_FIRST], 0, _FIRST).copy()]
    parts.append(session.prefill(1, ids[_FIRST:_SECOND], _FIRST, _SECOND - _FIRST).copy())
    parts += [decode_logits(session, 1, ids[i : i + 1], np.array([i])).copy() for i in range(_SECOND, _TOKENS)]
    return np.concatenate(parts)
