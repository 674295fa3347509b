from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.errors import StreamError
from bench.http.sse import MAX_EVENT_BYTES, EventSplitter

STREAM = b": hello\n\ndata: one\n\nevent: x\ndata:two\r\n\r\ndata: a\ndata: b\n\nid: 7\n\ndata: [DONE]\n\n"
EVENTS = [b"one", b"two", b"a\nb", b"[DONE]"]


def test_events_of_a_stream() -> None:
    assert EventSplitter().feed(STREAM) == EVENTS


@given(st.lists(st.integers(0, len(STREAM)), max_size=12))
def test_any_cut_gives_the_same_events(cuts: list[int]) -> None:
    splitter = EventSplitter()
    edges = [0, *sorted(cuts), len(STREAM)]

    events = [event for a, b in itertools.pairwise(edges) for event in splitter.feed(STREAM[a:b])]

    assert events == EVENTS


def test_unfinished_event_waits() -> None:
    splitter = EventSplitter()

    assert splitter.feed(b"data: half") == []
    assert splitter.feed(b"\n") == []
    assert splitter.feed(b"\n") == [b"half"]


def test_endless_line_is_refused() -> None:
    with pytest.raises(StreamError) as caught:
        EventSplitter().feed(b"x" * (MAX_EVENT_BYTES + 1))
    assert caught.value.kind == "oversized_event"
