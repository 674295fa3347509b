"""A short, repeatable run of every fuzz target: the seeds, what was once found, and a few edits of them."""

from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from export.errors import ExportError
from export.source.hf.json_object import JsonObject
from export.source.hf.spec import spec_from_config
from tests.fuzz.mutate import ODD, changed_objects, lines_run
from tests.fuzz.targets import SEEDS, TARGETS, Target, inputs

MAIN_SEEDS = {
    "gguf": "llama", "safetensors": "two", "manifest": "tiny", "sidecar": "sm89", "generation": "usual", "chat": "full",
    "response": "items", "message": "tools", "text_stream": "umlauts", "config": "llama-3.1", "metadata": "granite",
}  # fmt: skip


@pytest.mark.parametrize("name", TARGETS)
def test_seeds_and_former_findings(name: str) -> None:
    assert inputs(name)
    for data in inputs(name):
        TARGETS[name](data)


@pytest.mark.parametrize("name", TARGETS)
@settings(max_examples=40, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_edited_seeds(name: str, data: st.DataObject) -> None:
    TARGETS[name](data.draw(TARGETS[name].generated(inputs(name))))


@pytest.mark.parametrize("name", [name for name, target in TARGETS.items() if target.generated is changed_objects])
@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_more_of_what_is_quick(name: str, data: st.DataObject) -> None:
    TARGETS[name](data.draw(changed_objects(inputs(name))))


@pytest.mark.parametrize("name", TARGETS)
def test_the_first_seed_is_taken_whole(name: str) -> None:
    TARGETS[name].run((SEEDS / name / MAIN_SEEDS[name]).read_bytes())


def test_a_finding_is_an_error() -> None:
    def broken(_data: bytes) -> None:
        raise KeyError("x")

    with pytest.raises(KeyError):
        Target(broken, (ValueError,))(b"")

    def talkative(_data: bytes) -> None:
        raise ValueError("x" * 5000)

    with pytest.raises(ValueError, match="more than 4096"):
        Target(talkative, (ValueError,))(b"")


def test_lines_of_our_own_code_are_counted() -> None:
    accepted = lines_run(lambda: TARGETS["chat"]((SEEDS / "chat" / "full").read_bytes()))
    assert accepted > 5 * lines_run(lambda: TARGETS["chat"](b"7"))


def test_each_key_of_each_config_takes_each_odd_value() -> None:
    """Every pair, where a search comes upon some of them."""
    num_refused = 0
    for config in map(json.loads, inputs("config")):
        for key, value in itertools.product(config, ODD):
            try:
                spec_from_config(JsonObject("config.json", config | {key: value}))
            except ExportError:
                num_refused += 1
    assert num_refused > 1000
