"""Marks each call of a session for NVIDIA's profilers: prefill, decode, launch, wait, copy; domain ``powertrain``.

A range lasts as long as the call, and its payload is the number of rows (of tokens, for a prefill). Knows the package
``nvtx`` and the device seam; changes nothing about a call.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from runtime.adapter import Adapter
from runtime.errors import BackendError, DeviceError
from runtime.install import install_line
from runtime.session.selected import Selected
from runtime.session.selection_table import SelectionTable
from runtime.session.session import AheadSession, FloatArray, HostDraw, Int64Array, Session, SessionInfo, runs_ahead
from runtime.session.takes_adapters import pass_adapter


def marking(build: Callable[[], Session]) -> Callable[[], Session]:
    """A function that builds the same session, marked. Raises BackendError at once where ``nvtx`` is missing."""
    try:
        nvtx: Any = importlib.import_module("nvtx")
    except ImportError as error:
        raise BackendError(f"nvtx is on but the package nvtx is missing: {install_line('nvtx', 'nvtx')}") from error
    return lambda: NvtxSession(build(), nvtx.get_domain("powertrain"))


class NvtxSession:
    """``runtime.session.session.Session`` around another one. ``domain`` is one of ``nvtx``."""

    def __init__(self, inner: Session, domain: Any) -> None:  # noqa: ANN401 - nvtx has no types
        self._inner, self._domain = inner, domain

    @property
    def info(self) -> SessionInfo:
        """The inner session's."""
        return self._inner.info

    @property
    def run_ns(self) -> int:
        """The inner session's."""
        return self._inner.run_ns

    def decode_tokens(
        self, slots: Int64Array, token_ids: Int64Array, positions: Int64Array, selection: SelectionTable | None = None
    ) -> Selected:
        """See ``Session.decode_tokens``."""
        with self._range("decode", len(token_ids)):
            return self._inner.decode_tokens(slots, token_ids, positions, selection)

    def launch(
        self,
        slots: Int64Array,
        token_ids: Int64Array,
        positions: Int64Array,
        selection: SelectionTable | HostDraw | None,
    ) -> None:
        """See ``AheadSession.launch``."""
        with self._range("launch", len(token_ids)):
            self._ahead.launch(slots, token_ids, positions, selection)

    def wait(self) -> Selected:
        """See ``AheadSession.wait``."""
        with self._range("wait", 0):
            return self._ahead.wait()

    @property
    def _ahead(self) -> AheadSession[Any]:
        if not runs_ahead(self._inner):
            raise DeviceError("the session launches nothing ahead")
        return self._inner

    def prefill_token(
        self, slot: int, token_ids: Int64Array, start: int, selection: SelectionTable | None = None
    ) -> Selected:
        """See ``Session.prefill_token``."""
        with self._range("prefill", len(token_ids)):
            return self._inner.prefill_token(slot, token_ids, start, selection)

    def prefill(self, slot: int, token_ids: Int64Array, start: int, num_logits: int) -> FloatArray:
        """See ``Session.prefill``."""
        with self._range("prefill", len(token_ids)):
            return self._inner.prefill(slot, token_ids, start, num_logits)

    def copy_slot(self, source: int, target: int, num_tokens: int, start: int = 0) -> None:
        """See ``Session.copy_slot``."""
        with self._range("copy", num_tokens - start):
            self._inner.copy_slot(source, target, num_tokens, start)

    def set_adapter(self, slot: int, adapter: Adapter | None) -> None:
        """See ``TakesAdapters``; of no use but to a session that is one."""
        pass_adapter(self._inner, slot, adapter)

    def close(self) -> None:
        """See ``Session.close``."""
        self._inner.close()

    @contextmanager
    def _range(self, name: str, rows: int) -> Iterator[None]:
        self._domain.push_range(message=name, payload=rows)
        try:
            yield
        finally:
            self._domain.pop_range()
