"""No test leaves a thread of decode calls behind."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.runtime.session.cpu.threaded_driver import decode_threads


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    assert not decode_threads()
    yield
    assert not decode_threads()
