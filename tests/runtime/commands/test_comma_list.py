"""Options whose value is a list add up when they are given more than once, in every command."""

from __future__ import annotations

from typing import Any, get_origin, get_type_hints

import click
import pytest
from click.testing import CliRunner

from api.server_settings import Settings
from powertrain import main
from runtime.commands.comma_list import COMMA_LIST

LISTS = {
    "export": {"dialect", "served_model_name", "lora_targets"},
    "engine": {"target"},
    "bench http": {"concurrency", "request_rate", "percentile_metrics", "metric_percentiles", "goodput"},
    "bench compare": {"concurrency", "request_rate", "percentile_metrics", "metric_percentiles", "goodput"},
    "bench engine": {"prefill", "depth", "batch", "vocab", "adapters"},
    "bench peers": {"formats", "concurrency", "precisions"},
    "bench simulate": {"policy", "replicas"},
    "eval": {"lm_eval_tasks"},
    "serve": {name for name, hint in get_type_hints(Settings).items() if get_origin(hint) is tuple} - {"more_models"},
}


def _commands(group: Any, path: str = "") -> dict[str, click.Command]:
    found: dict[str, click.Command] = {}
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        found |= _commands(command, f"{path}{name} ") if isinstance(command, click.Group) else {path + name: command}
    return found


def test_every_list_adds_up() -> None:
    found: dict[str, set[str]] = {}
    for path, command in _commands(main).items():
        context = click.Context(command)
        for option in command.params:
            if option.callback is COMMA_LIST["callback"]:
                assert option.process_value(context, ("a", "b,c")) == "a,b,c"
                if not option.required:  # what a command gets without the flag
                    assert isinstance(option.process_value(context, option.get_default(context)), str | None)
                found.setdefault(path, set()).add(str(option.name))
    assert found == LISTS


@pytest.mark.parametrize(
    "words", [["--served-model-name", "a", "--served-model-name", "b,c"], ["--served-model-name=a,b,c"]]
)
def test_a_repeated_flag_of_the_server_adds_up(words: list[str]) -> None:
    result = CliRunner().invoke(
        main, ["serve", *words, "--api-key", "secret-1", "--api-key", "secret-2", "--print-config"]
    )
    assert 'served_model_name = ["a","b","c"]  # --served-model-name' in result.output
    assert "secret-" not in result.output


def test_a_repeated_flag_of_an_export_adds_up() -> None:
    words = ["--dialect", "ort", "--dialect", "trt", "--precision", "int8", "--explain"]
    result = CliRunner().invoke(main, ["export", "smollm2-135m-instruct", *words])
    assert "ort, trt" in result.output, result.output
