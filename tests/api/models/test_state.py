"""When a server of several models is ready, and when only a restart helps."""

from __future__ import annotations

import pytest

from api.models.reason import shown_reason
from api.models.state import ModelState, can_serve, is_alive

FAILED, LOADING, READY, UNLOADED, UNLOADING = (
    ModelState.FAILED,
    ModelState.LOADING,
    ModelState.READY,
    ModelState.UNLOADED,
    ModelState.UNLOADING,
)


@pytest.mark.parametrize(
    ("states", "has_served", "on_demand", "expected"),
    [
        ([LOADING, UNLOADED], False, True, False),
        ([READY, LOADING], False, True, True),
        ([FAILED, READY], False, True, True),  # a model that fails leaves the others serving
        ([UNLOADING, LOADING], True, True, True),  # one makes room for the other
        ([UNLOADED, UNLOADED], True, True, True),  # a request would load either
        ([UNLOADED, UNLOADED], True, False, False),  # nobody's request would
        ([READY, UNLOADED], True, False, True),
        ([FAILED, FAILED], True, True, False),
    ],
)
def test_ready(states: list[ModelState], *, has_served: bool, on_demand: bool, expected: bool) -> None:
    assert can_serve(states, has_served=has_served, on_demand=on_demand) == expected


def test_only_a_server_whose_models_have_all_failed_is_to_be_restarted() -> None:
    assert is_alive([FAILED, UNLOADED])
    assert is_alive([FAILED, LOADING])
    assert not is_alive([FAILED, FAILED])


@pytest.mark.parametrize(
    ("failure", "shown"),
    [
        ("RuntimeError: no /srv/models/a/graph.onnx here", "RuntimeError: no graph.onnx here"),
        ("open '/etc/secret'; try again", "open 'secret'; try again"),
        ("~/models/a/x.bin, and ./b/c.txt", "x.bin, and c.txt"),
        ("package models/mine/b is altered", "package b is altered"),
        ("2 MiB/s of 3 tokens/s", "2 MiB/s of 3 tokens/s"),
        ("export with owner/name\nTraceback: /x/y", "export with owner/name"),
        ("", "unknown"),
        ("x" * 600, "x" * 500 + "..."),
    ],
)
def test_a_reason_has_no_paths_and_one_line(failure: str, shown: str) -> None:
    assert shown_reason(failure) == shown
