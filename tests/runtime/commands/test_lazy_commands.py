"""What a help page may not import, what every page shows, and words that nearly name something."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import rich_click as click
from click.shell_completion import ShellComplete
from click.testing import CliRunner

import powertrain
from bench.commands.http_options import ARRIVAL_PATTERNS
from bench.http.arrivals import ArrivalPattern
from bench.proof.mock_server import MOCK_MODEL
from runtime.commands.model_argument import MODEL_OR_FILE
from runtime.commands.surroundings import Surroundings
from tests.paths import ROOT

PROGRAM = """
import sys
import rich_click as click
import powertrain

def pages(command, context):
    yield command, context
    for word in getattr(command, "list_commands", lambda _: [])(context):
        below = command.get_command(context, word)
        yield from pages(below, click.RichContext(below, info_name=word, parent=context))

root = click.RichContext(powertrain.main, info_name="powertrain")
for command, context in list(pages(powertrain.main, root)):
    print(command.get_help(context))
print("HEAVY", *sorted(sys.modules))
"""
HEAVY = {"numpy", "onnx", "onnxruntime", "litestar", "uvicorn", "httpx", "msgspec", "gguf", "safetensors", "tokenizers",
         "jinja2", "llguidance", "prometheus_client", "asyncio", "rich.progress", "prompt_toolkit"}  # fmt: skip


def test_no_help_page_imports_what_works() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, cwd=ROOT, check=True)
    pages, _, loaded = done.stdout.rpartition("HEAVY")
    assert not HEAVY & set(loaded.split())
    assert pages.count("Usage:") == 32


def commands(command: click.Command, context: click.Context) -> dict[str, click.Command]:
    if not isinstance(command, click.Group):
        return {context.command_path: command}
    found: dict[str, click.Command] = {}
    for word in command.list_commands(context):
        below = command.get_command(context, word)
        assert below is not None
        found |= commands(below, click.Context(below, info_name=word, parent=context))
    return found


ALL = commands(powertrain.main, click.Context(powertrain.main, info_name="powertrain"))


@pytest.mark.parametrize("path", ALL)
def test_every_command_has_examples_and_long_ones_have_groups(path: str) -> None:
    command = ALL[path]
    assert (command.epilog or "").startswith("Examples:")
    assert path in (command.epilog or "")
    options: list[Any] = [item for item in command.params if isinstance(item, click.Option)]
    panels = [option.panel for option in options]
    if len(options) > 8:
        assert panels.count(None) <= 5
        assert max(map(panels.count, set(panels))) <= 18
    for option in options:
        assert option.help, option.name
        default = option.to_info_dict()["default"]
        if default not in {None, False} or option.secondary_opts:
            assert option.show_default or "[default" in option.help, option.name


@pytest.mark.parametrize("path", ALL)
def test_one_word_for_a_model_and_one_meaning_of_output(path: str) -> None:
    arguments = {item.name for item in ALL[path].params if isinstance(item, click.Argument)}
    assert arguments <= {"model", "models", "url", "urls", "file", "files", "name", "pipeline"}
    for option in (item for item in ALL[path].params if isinstance(item, click.Option)):
        assert not any(name.startswith("--output-dir") for name in option.opts)
        if "--output" in option.opts:
            assert "-o" in option.opts
            assert "older" in (option.help or "")


def test_words_that_stand_for_values_elsewhere_are_those() -> None:
    assert set(ARRIVAL_PATTERNS) == {pattern.value for pattern in ArrivalPattern}
    mock = next(item for item in ALL["powertrain bench mock"].params if item.name == "model")
    assert mock.default == MOCK_MODEL


def test_a_word_that_is_nearly_a_command_is_named() -> None:
    result = CliRunner().invoke(powertrain.main, ["sever"])
    assert result.exit_code == 2
    assert "No such command 'sever'. Did you mean 'serve'?" in result.output
    assert "Did you mean 'http'?" in CliRunner().invoke(powertrain.main, ["bench", "htpp"]).output
    assert "Did you mean" not in CliRunner().invoke(powertrain.main, ["zzzzz"]).output


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("smollm2-135m-instruct", "qwen3"):
        (tmp_path / "models" / name).mkdir(parents=True)
        (tmp_path / "models" / name / "manifest.json").touch()
    (tmp_path / "models" / "other.toml").touch()
    (tmp_path / "models" / "notes").mkdir()
    return tmp_path / "models"


def completed(home: Path, *words: str) -> list[str]:
    around = {"obj": Surroundings(home=lambda: home)}
    shell = ShellComplete(powertrain.main, around, "powertrain", "_POWERTRAIN_COMPLETE")
    return [item.value for item in shell.get_completions(list(words[:-1]), words[-1])]


@pytest.mark.parametrize(
    "command", [["serve"], ["chat"], ["export"], ["inspect"], ["diff"], ["engine"], ["bench", "engine"], ["doctor"]]
)
def test_a_shell_completes_packages_by_name_and_by_path(home: Path, command: list[str]) -> None:
    assert completed(home, *command, "s") == ["smollm2-135m-instruct"]
    assert completed(home, *command, "o") == ["other"]
    assert completed(home, *command, "models/") == [
        "models/other.toml", "models/qwen3", "models/smollm2-135m-instruct"
    ]  # fmt: skip
    assert completed(home, *command, "models/q") == ["models/qwen3"]
    assert completed(home, *command, "nothing-like-it") == ["nothing-like-it"]


def test_a_tokenizer_is_a_file_or_a_package(home: Path) -> None:
    (home / "qwen3" / "tokenizer.json").touch()
    context = click.Context(ALL["powertrain bench http"], obj=Surroundings(home=lambda: home))
    assert MODEL_OR_FILE.convert("qwen3", None, context) == home / "qwen3"
    file = Path("models/qwen3/tokenizer.json")
    assert MODEL_OR_FILE.convert(str(file), None, context) == file
    assert completed(home, "bench", "http", "http://x", "--tokenizer", "q") == ["qwen3"]


def test_a_shell_completes_commands_and_options(home: Path) -> None:
    assert completed(home, "se") == ["serve"]
    assert completed(home, "serve", "--max-model") == ["--max-model-len"]
    assert completed(home, "serve", "--log-format", "j") == ["json"]


@pytest.mark.parametrize("command", [["inspect"], ["engine", "--target", "sm89"], ["bench", "engine"], ["doctor"]])
def test_a_name_that_is_no_package_is_told_with_the_nearest(home: Path, command: list[str]) -> None:
    for word in ("smollm2-135m-instrct", "models/smollm2-135m-instrct"):
        result = CliRunner().invoke(powertrain.main, [*command, word], obj=Surroundings(home=lambda: home))
        assert result.exit_code == 1
        said = " ".join(result.output.replace("│", " ").split())
        assert f"there is no package at {word}" in said
        assert "did you mean" in said
        assert "smollm2-135m-instruct?" in said.replace(" ", "")
