"""Runs the command lines of one page in a folder of their own, on the default package. Knows no page.

What a line cannot know is put in: MODEL and the names of packages that nothing before has built become the default
package, ``path/to/model.gguf`` its weights, and port 8000 a free one. Measurements are made short: what a page shows
must run, and its figures are judged nowhere here.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from tests.conftest import DEFAULT_MODEL
from tests.docs.markdown import blocks
from tests.docs.shell import Line
from tests.paths import MODELS, ROOT

_PACKAGE = re.compile(r"(?<![\w/.-])models/[\w-]+(?!\.toml)(?=\s|$)")
_OUTPUT = re.compile(r"(?:-o|--output)\s+$")
_SERVE = re.compile(r"(?:^|\s)powertrain serve\b(?!.*--print-config)")
_SHORT = (
    (r"powertrain bench http .+", r"\g<0> --request-count 8 --warmup-request-count 1 --cooldown-request-count 0"),
    (r"powertrain bench suite .+", r"\g<0> --short"),
    (r"powertrain bench engine --synthetic .+", r"\g<0> --breakdown-steps 5 --vocab 49152 --batch 1,16"),
    (r"powertrain bench engine (?!--synthetic).+", r"\g<0> --repetitions 2 --decode 16 --breakdown-steps 5"),
    (r"powertrain bench engine (?!--synthetic)(?!.* -b ).+", r"\g<0> --batch 1,4 --prefill 64"),
    (r"(powertrain bench engine .*)-b 1,4,\d+", r"\g<1>-b 1,4"),
    (r"(powertrain bench engine .*)-d 0,\d+", r"\g<1>-d 0,128"),
)
"""What makes measurements short: of an option that stands twice the later value counts."""
_EXPORT = re.compile(r"powertrain export (?P<what>.+) -o (?P<where>\S+)$")
_GATES = frozenset({0, 3, 4})
"""Statuses of a command that did what was asked; 3 and 4 say that a measured value is worse than the line allows."""
_PATIENCE_S = 600
"""For a server that may have to build its package first."""


def own_words(text: str, folder: Path) -> str:
    """A line's text with what a reader would put in for themselves; ``folder`` is where it will run."""
    (weights,) = sorted((MODELS / ".cache").glob("*.gguf"))[:1]

    def package(found: re.Match[str]) -> str:
        is_output = _OUTPUT.search(found.string[: found.start()]) is not None
        is_here = (folder / found[0] / "manifest.json").is_file()
        return found[0] if is_output or is_here else str(MODELS / DEFAULT_MODEL)

    text = _PACKAGE.sub(package, text.replace("path/to/model.gguf", str(weights)))
    text = re.sub(r"(?<=\s)MODEL(?=\s|$)", DEFAULT_MODEL, text)
    for long, short in _SHORT:
        text = re.sub(long, short, text, flags=re.DOTALL)
    return re.sub(r"(?<!\S)\.venv\S*/bin/powertrain\b", "powertrain", text)


def bring_files(line: Line, folder: Path) -> None:
    """Write the TOML files that a line names and the page shows above it, and make the folders that it writes into."""
    for target in re.findall(r"(?<= > )[\w./-]+", line.text):
        (folder / target).parent.mkdir(parents=True, exist_ok=True)
    shown = [block for block in blocks(line.block.page) if block.language == "toml" and block.line < line.block.line]
    for name in re.findall(r"(?<!\S)[\w-]+\.toml(?=\s|$)", line.text):
        if shown and not (folder / name).exists():
            (folder / name).write_text("\n".join(shown[-1].lines) + "\n", encoding="utf-8")


class Scratch:
    """A folder for the lines of one page, and the server that runs for them. ``close`` ends the server.

    ``built`` is what earlier pages exported, by the words that say what: the same words need not build it again.
    """

    def __init__(self, folder: Path, built: dict[str, Path]) -> None:
        self.folder = folder
        self._built = built
        (folder / "bin").mkdir()
        command = folder / "bin" / "powertrain"
        command.write_text(f'#!/bin/sh\nexec {sys.executable} {ROOT / "powertrain.py"} "$@"\n', encoding="utf-8")
        command.chmod(0o755)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = int(free.getsockname()[1])
        self._environment = {**os.environ, "PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
        self._server: subprocess.Popen[bytes] | None = None

    def run(self, line: Line) -> None:
        """Run a line to its end; one that serves goes on. Raises AssertionError with what it said when it fails."""
        bring_files(line, self.folder)
        text = own_words(line.text, self.folder).replace(":8000", f":{self._port}")
        # A package of weights alone is named after them, and must not take the place of one that is there.
        own_home = {"POWERTRAIN_HOME": str(self.folder / "home")} if ".gguf" in text else {}
        if _SERVE.search(text):
            self._serve(re.sub(r" --port \d+", "", text), own_home)
            return
        if f":{self._port}" in text and self._server is None:
            self._serve(f"powertrain serve {DEFAULT_MODEL}", {})
        export = _EXPORT.search(text)
        if export and export["what"] in self._built and not (self.folder / export["where"]).exists():
            shutil.copytree(self._built[export["what"]], self.folder / export["where"])
            return
        done = subprocess.run(
            ["bash", "-c", re.sub(r"^curl ", "curl --fail-with-body ", text)],
            cwd=self.folder, env=self._environment | own_home, capture_output=True, text=True, timeout=900, check=False,
        )  # fmt: skip
        said = (done.stdout + done.stderr)[-2000:]
        assert done.returncode in _GATES, f"{line.block.place}: {line.text}\nended with {done.returncode}:\n{said}"
        if export:
            self._built[export["what"]] = self.folder / export["where"]

    def close(self) -> None:
        """End the server, which must end with 0."""
        if self._server is not None:
            self._server.send_signal(signal.SIGTERM)
            status, self._server = self._server.wait(_PATIENCE_S), None
            assert status == 0

    def _serve(self, text: str, sets: dict[str, str]) -> None:
        self.close()
        command = ["bash", "-c", f"exec {text} --port {self._port}"]
        with (self.folder / "server.log").open("wb") as log:
            self._server = subprocess.Popen(
                command, cwd=self.folder, env=self._environment | sets, stdout=log, stderr=log
            )
        scheme = "https" if "--tls-cert" in text else "http"
        trusting = ssl._create_unverified_context()  # noqa: S323 - its own certificate
        until = time.monotonic() + _PATIENCE_S
        while not _is_ready(f"{scheme}://127.0.0.1:{self._port}/v1/health/ready", trusting):
            said = (self.folder / "server.log").read_text(encoding="utf-8")[-2000:]
            is_trying = self._server.poll() is None and time.monotonic() < until
            assert is_trying, f"{text}\ndid not serve:\n{said}"
            time.sleep(0.2)


def _is_ready(url: str, trusting: ssl.SSLContext) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2, context=trusting) as answer:  # noqa: S310 - our own server
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False
