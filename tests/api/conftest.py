"""Scripted servers for all tests that change nothing about them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.api.programs import TOOL_TEMPLATE
from tests.api.scripted_server import RunningServer, running_server


@pytest.fixture(scope="session")
def server() -> Iterator[RunningServer]:
    with running_server(vllm_metrics=True) as running:
        yield running


@pytest.fixture(scope="session")
def tool_server() -> Iterator[RunningServer]:
    """Its template knows tools and reasoning, and its context has room for both."""
    with running_server(template=TOOL_TEMPLATE, max_model_len=4096) as running:
        yield running


@pytest.fixture(scope="session")
def roomy_server() -> Iterator[RunningServer]:
    """Its template knows neither tools nor reasoning; its context has room for tools in words."""
    with running_server(max_model_len=2048) as running:
        yield running
