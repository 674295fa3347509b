"""Every command that the documentation shows: parsed by the real command line, and run, or marked with why not.

The quick ones run here; those that take long or start a server run with ``make test-docs``.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from powertrain import main
from runtime.package.manifest import Package
from tests.docs.markdown import blocks, pages, prose
from tests.docs.parsing import wrong_in
from tests.docs.running import Scratch, bring_files, own_words
from tests.docs.shell import NEEDS, Line, lines, shell_blocks
from tests.paths import ROOT

LINES = [line for block in shell_blocks() for line in lines(block)]
RUNNABLE = frozenset({"powertrain", "make", "curl", "echo", "export", "eval", "openssl", "chmod"})
QUICK = (
    r"inspect (?!models/mine-trt)",
    r"serve .*--print-config",
    r"key ",
    r"export .*--(explain|dry-run)",
    r"build .*--dry-run",
)
"""Commands that read, or write a small file: each takes about a second at the most."""


def is_quick(line: Line) -> bool:
    return any(re.search(rf"(?:^|\s)powertrain {command}", line.text + " ") for command in QUICK)


def inline() -> Iterator[tuple[str, list[str]]]:
    """The commands that stand in the prose, with their places."""
    for page in pages():
        for number, text in prose(page):
            for found in re.findall(r"`powertrain (?!needs )((?:[a-z]+|--)[^`]*)`", text):
                words = found.replace("\\|", "|").split("|")[0]
                if not set("[]<>…'") & set(words) and "..." not in words:
                    yield f"{page.relative_to(ROOT)}:{number}", shlex.split(words)


def test_every_block_says_what_it_holds() -> None:
    untold = [block.place for page in pages() for block in blocks(page) if not block.language]
    assert not untold, "name the language behind the fence: sh for commands, text for what is no language"


def test_every_line_is_run_or_says_what_it_needs() -> None:
    assert len(LINES) > 90
    wrong = [
        f"{line.block.place}: {line.text[:70]}"
        for line in LINES
        if line.need not in NEEDS and (line.need is not None or not set(line.programs()) <= RUNNABLE)
    ]
    assert not wrong, f"write '# needs …' behind it, with one of {sorted(NEEDS)}"


def test_the_command_line_takes_every_command() -> None:
    wrong = [
        f"{line.block.place}: {shlex.join(command)}: {said}"
        for line in LINES
        for command, program in zip(line.commands(), line.programs(), strict=True)
        if program == "powertrain" and command[1:] and (said := wrong_in(command[1:]))
    ]
    assert not wrong


def test_the_command_line_takes_the_commands_within_the_prose() -> None:
    found = list(inline())
    assert len(found) > 80
    wrong = [
        f"{place}: {shlex.join(words)}: {said}" for place, words in found if (said := wrong_in(words, is_part=True))
    ]
    assert not wrong


def test_the_command_line_takes_the_examples_of_its_own_help() -> None:
    page = ROOT / "docs/reference/commands.md"
    shown = [line for block in blocks(page) for line in block.lines if "[OPTIONS]" not in line]
    commands = [part for line in shown for part in re.findall(r"powertrain [^;|>]+", line)]
    assert len(commands) > 30
    assert not [f"{part}: {said}" for part in commands if (said := wrong_in(shlex.split(part)[1:]))]


def test_make_has_every_target() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    asked = {word for line in LINES for command in line.commands() if command[0] == "make" for word in command[1:]}
    asked |= {word for page in pages() for _, text in prose(page) for word in re.findall(r"`make ([a-z-]+)", text)}
    targets = {word for word in asked if "=" not in word and not word.startswith("-")}
    assert len(targets) > 10
    assert targets <= set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))


@pytest.mark.model
def test_a_page_exports_to_a_place_of_its_own(default_package: Package, tmp_path: Path) -> None:
    """Never over the default model, which every other page and test is about."""
    text = own_words("powertrain export path/to/model.gguf --precision fp32 -o models/mine", tmp_path)
    assert text.endswith(" --precision fp32 -o models/mine")
    assert own_words("powertrain inspect models/mine", tmp_path) == f"powertrain inspect {default_package.root}"


@pytest.mark.model
@pytest.mark.parametrize(
    "page", sorted({line.block.page for line in LINES if is_quick(line)}), ids=lambda path: path.stem
)
def test_quick_commands_do_what_they_say(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, default_package: Package
) -> None:
    monkeypatch.chdir(tmp_path)
    done = set[str]()
    for line in LINES:
        if line.block.page != page or line.need is not None or not is_quick(line):
            continue
        bring_files(line, tmp_path)
        (words,), target = (
            Line(line.block, own_words(line.text, tmp_path), None).commands(),
            line.text.partition(">> ")[2],
        )
        sets = dict(re.findall(r"([A-Z_]+)=(\S+)", line.text.partition("powertrain ")[0]))
        if (text := shlex.join(words)) in done and not target:
            continue
        result = CliRunner().invoke(main, words[1:], env=sets, prog_name="powertrain")
        assert result.exit_code == 0, f"{line.block.place}: {line.text}\n{result.output}"
        assert result.stdout.strip(), line.text
        if target:
            with (tmp_path / target).open("a", encoding="utf-8") as file:
                file.write(result.stdout)
        done.add(text)


@pytest.fixture(scope="session")
def built() -> dict[str, Path]:
    return {}


@pytest.mark.docs
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("page", sorted({line.block.page for line in LINES}), ids=lambda path: path.stem)
def test_every_command_of_a_page_runs(
    page: Path, tmp_path: Path, built: dict[str, Path], default_package: Package
) -> None:
    """In the page's order and one folder. ``make`` is left to those who test the Makefile, ``export`` sets a path."""
    scratch = Scratch(tmp_path, built)
    try:
        for line in LINES:
            is_mine = line.block.page == page and line.need is None
            if is_mine and line.programs()[0] not in {"make", "export"}:
                scratch.run(line)
    finally:
        scratch.close()
