"""What tests of conversations talk to: the real server with a scripted model, and an endpoint that misbehaves."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.api.scripted_server import RunningServer, running_server
from tests.chat.scripted_endpoint import ScriptedEndpoint, scripted_endpoint


@pytest.fixture(scope="session")
def real_server() -> Iterator[RunningServer]:
    with running_server(api_key=("me=s3cret-of-ours",)) as running:
        yield running


@pytest.fixture
def endpoint() -> Iterator[ScriptedEndpoint]:
    with scripted_endpoint() as running:
        yield running
