"""The names that packages already built are held to."""

from __future__ import annotations

from runtime.package.graph_io import cache_names


def test_cache_names_come_in_the_graphs_order() -> None:
    assert cache_names(2) == [
        ("past_key_values.0.key", "present.0.key"),
        ("past_key_values.0.value", "present.0.value"),
        ("past_key_values.1.key", "present.1.key"),
        ("past_key_values.1.value", "present.1.value"),
    ]
