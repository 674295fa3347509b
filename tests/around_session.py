"""A session around another one, which it changes nothing about: for tests that override what they watch or spoil."""

from __future__ import annotations

from dataclasses import dataclass

from runtime.session.session import FloatArray, Int64Array, Session, SessionInfo


@dataclass
class AroundSession:
    """``runtime.session.session.Session``, each call handed on to ``inner``."""

    inner: Session

    @property
    def info(self) -> SessionInfo:
        return self.inner.info

    @property
    def run_ns(self) -> int:
        return self.inner.run_ns

    def prefill(self, slot: int, token_ids: Int64Array, start: int, num_logits: int) -> FloatArray:
        return self.inner.prefill(slot, token_ids, start, num_logits)

    def decode(self, first_slot: int, token_ids: Int64Array, positions: Int64Array) -> FloatArray:
        return self.inner.decode(first_slot, token_ids, positions)

    def copy_slot(self, source: int, target: int, num_tokens: int, start: int = 0) -> None:
        self.inner.copy_slot(source, target, num_tokens, start)

    def close(self) -> None:
        self.inner.close()
