"""On which GPUs a plan runs: its own kind, and where it was built for more, those."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest

from runtime.loading.plan_choice import _runs_on
from tests.runtime.loading.machine import ADA
from tests.runtime.package.made import plan_key

KEY = plan_key(library="tensorrt", library_version="11.4.0", target="current-sm86", compute_capability="8.6")


@pytest.mark.parametrize(
    ("compatibility", "capabilities"),
    [("none", {"8.6"}), ("same_compute_capability", {"8.6"}), ("ampere_plus", {"8.0", "8.6", "9.0", "10.0", "12.1"})],
)
def test_a_plan_runs_where_it_was_built_for(compatibility: str, capabilities: set[str]) -> None:
    key = msgspec.structs.replace(KEY, hardware_compatibility=compatibility)
    asked = ("7.5", "8.0", "8.6", "9.0", "10.0", "12.1")
    assert {one for one in asked if _runs_on(key, replace(ADA, compute_capability=one))} == capabilities
