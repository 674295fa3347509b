"""The process of a step, and the command line that starts it."""

from __future__ import annotations

import os
import select
import signal
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import powertrain
from export.errors import StepError
from export.pipeline.build_report import read_report
from export.pipeline.cache import Cache
from export.pipeline.child import Child
from export.pipeline.command import run_command
from export.pipeline.tasks import Failed, Finished, Identity, Job, Message, SelfTestTask
from runtime.commands.surroundings import Surroundings
from tests.export.tiny_models import write_tiny_folder


def job(cache: Cache) -> Job:
    identity = Identity(kind="self-test", label="tiny", key="k", inputs={})
    return Job(cache=str(cache.root), task=SelfTestTask(identity=identity, package_key="missing"))


def last_message(child: Child) -> Message:
    while True:
        select.select([child], [], [])
        for message in child.messages():
            if isinstance(message, Finished | Failed):
                return message


def test_a_step_says_why_it_failed_and_how_it_died(tmp_path: Path) -> None:
    """The first one's package is not in the cache. The second one waits for a key, and is killed there."""
    cache = Cache(tmp_path / "cache")
    child = Child(job(cache), tmp_path / "logs/step.log")
    try:
        message = last_message(child)
    finally:
        child.close()
    assert message == Failed(
        "what an earlier step made is gone from the cache, or damaged; run the build again", is_quality=False
    )
    with cache.making("k"):
        child = Child(job(cache), tmp_path / "logs/step.log")
        try:
            os.kill(child._process.pid, signal.SIGKILL)
            message = last_message(child)
        finally:
            child.close()
    assert isinstance(message, Failed)
    assert "its process was killed, perhaps for want of memory" in message.text
    assert cache.find("k") is None


def test_a_command_of_another_room_prints_for_the_step_or_fails_it() -> None:
    assert version("powertrain") in run_command(["--version"]).decode()
    with pytest.raises(StepError, match="'powertrain bench --no-such-word' ended with status 2; its log says why"):
        run_command(["bench", "--no-such-word"])


def run(tmp_path: Path, *words: str, **surroundings: Any) -> tuple[int, str]:
    around = Surroundings(home=lambda: tmp_path / "home", **surroundings)
    result = CliRunner().invoke(powertrain.main, ["build", *words], obj=around)
    return result.exit_code, result.output


def test_the_command_rehearses_builds_and_has_nothing_to_do(tmp_path: Path) -> None:
    """Once through real processes: fetch, package and place, without golden rows or a quality report."""
    write_tiny_folder(tmp_path / "hf", "llama")
    file = tmp_path / "p.toml"
    file.write_text('precisions = ["fp32"]\nself_test = false\n[[model]]\nmodel = "hf"\nquality = false\nname = "t"')
    status, text = run(tmp_path, str(file), "--dry-run")
    assert status == 0
    assert "3 of 3 steps to do, about 3 min 00 s" in text
    assert "not built yet" in text
    assert not (tmp_path / "home").exists()
    reports = [word for name in ("r.json", "r.xml", "r.md") for word in ("--report", str(tmp_path / name))]
    status, text = run(tmp_path, str(file), *reports)
    assert (status, text.splitlines()[-1]) == (0, "3 steps: 3 built")
    logs = [step.log for step in read_report(tmp_path / "r.json").steps]
    assert logs == ["logs/p/fetch-t.log", "logs/p/package-t-fp32.log", "logs/p/place-t-fp32.log"]
    assert text.splitlines()[0] == "fetch t: not built yet"
    log = tmp_path / "home/.steps/logs/p/package-t-fp32.log"
    assert "Writing" in log.read_text()
    assert run(tmp_path, str(file), "--detailed-exit-code", *reports) == (3, "3 steps: 3 fresh\n")
    report = read_report(tmp_path / "r.json")
    assert (report.result, report.packages[0].is_placed) == ("nothing to do", True)
    assert (tmp_path / "r.xml").read_bytes().startswith(b"<?xml")
    assert run(tmp_path, str(file))[0] == 0
    assert run(tmp_path, str(file), "--dry-run", "--detailed-exit-code")[0] == 3
    file.write_text(f'{file.read_text()}\n[[gate]]\nmax_size = "0.5 * baseline"')
    earlier = ["--baseline", str(tmp_path / "r.json")]
    status, text = run(tmp_path, str(file), *earlier, *reports)
    assert (status, text.splitlines()[1]) == (4, "3 steps: 2 fresh, 1 worse than allowed")
    report = read_report(tmp_path / "r.json")
    assert (report.status, report.packages[0].is_placed, report.packages[0].gates[0].outcome) == (4, False, "broken")
    assert "(=)" in (tmp_path / "r.md").read_text()
    status, text = run(tmp_path, str(file), *earlier, "--dry-run")
    assert status == 4
    assert "refused" in text
    assert text.splitlines()[-2:] == ["nothing to do: 2 steps are fresh", "worse than allowed: 1 packages"]


def test_reports_that_cannot_be_are_told_before_anything_is_built(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").touch()
    (tmp_path / "p.toml").write_text('[[model]]\nmodel = "m.gguf"')
    for words in (
        ["--report", "r.txt"],
        ["--report", "r.json", "--dry-run"],
        ["--baseline", str(tmp_path / "no.json")],
    ):
        status, said = run(tmp_path, str(tmp_path / "p.toml"), *words)
        assert (status, said.count("\n")) == (2, 1)
        assert words[0] in said or words[1] in said


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[[model]]\nmodel = "hf"', "p.toml: [[model]] 'hf': hf: neither a package, a recipe"),
        ('[[model]]\nmodel = "gone.gguf"', "p.toml: [[model]] 'gone': there is no checkpoint at"),
        ('[[model]]\nmodel = "m.gguf"\nchat_template = "t"', "key 'chat_template': "),
        ('[[model]]\nmodel = "m.gguf"\n[[target]]\nname = "rtx"', "p.toml: target 'rtx' is no GPU"),
    ],
)
def test_a_wrong_configuration_is_status_2_and_one_line(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "m.gguf").touch()
    (tmp_path / "p.toml").write_text(text)
    status, said = run(tmp_path, str(tmp_path / "p.toml"))
    assert status == 2
    assert words in said
    assert said.startswith("Error: ")
    assert said.count("\n") == 1
