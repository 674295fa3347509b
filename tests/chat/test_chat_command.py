"""The command itself: a pipe, a pseudo-terminal, and a server of its own."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from rich.console import Console

import powertrain
from api.settings import client_key, private_environment
from chat.client import ChatClient
from chat.commands.chat import _endpoint, _Flags, _wants_style
from chat.errors import ChatError
from chat.own_server import own_server
from runtime.commands.surroundings import ServerLaunch, Surroundings
from tests.chat.scripted_endpoint import Reply, ScriptedEndpoint, chunk, events, refused, said
from tests.paths import ROOT


def piped(endpoint: ScriptedEndpoint, *words: str, question: str = "why?\n", key: str | None = None) -> Result:
    around = Surroundings(client_key=lambda: key)
    return CliRunner().invoke(powertrain.main, ["chat", endpoint.url, *words], input=question, obj=around)


def test_a_pipe_in_gives_a_plain_answer_out(endpoint: ScriptedEndpoint) -> None:
    endpoint.replies = [
        Reply(events(chunk(reasoning="hm"), chunk(content="be"), chunk(content="cause"), chunk("length")))
    ]
    done = piped(endpoint, "--system", "S", "--temperature", "0", "--max-tokens", "5", "--seed", "1")
    assert (done.stdout, done.exit_code) == ("because\n", 0)
    assert done.stderr == "the answer was cut at its length limit (max_tokens, or the context is full)\n"
    assert endpoint.bodies == [
        {
            "model": "made-up",
            "messages": [{"role": "system", "content": "S"}, {"role": "user", "content": "why?"}],
            "temperature": 0,
            "max_tokens": 5,
            "seed": 1,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
    ]


def test_flags_of_the_endpoint(endpoint: ScriptedEndpoint, tmp_path: Path) -> None:
    whole = {"choices": [{"message": {"content": "{}"}, "finish_reason": "stop"}]}
    endpoint.replies = [Reply(json.dumps(whole).encode(), 200, {"Content-Type": "application/json"})]
    (tmp_path / "s.json").write_text('{"type":"object"}')
    flags = ("--model", "other", "--no-stream", "--api-key", "k", "--json-schema", str(tmp_path / "s.json"))
    done = piped(endpoint, *flags, key="not this one")
    assert (done.stdout, done.stderr, done.exit_code) == ("{}\n", "", 0)
    assert endpoint.keys == ["Bearer k"] * 2
    (body,) = endpoint.bodies
    assert (body["model"], "stream" in body) == ("other", False)
    assert body["response_format"]["json_schema"]["schema"] == {"type": "object"}


def test_the_key_of_the_environment_goes_only_where_nobody_reads_it(endpoint: ScriptedEndpoint) -> None:
    endpoint.replies = [said("x")]
    assert piped(endpoint, key="mine").exit_code == 0
    assert endpoint.keys == ["Bearer mine"] * 2
    given: dict[str, Any] = {item.name: None for item in fields(_Flags)}
    flags = _Flags(**given)
    for url, sent in {"http://far.example": None, "https://far.example": "mine"}.items():
        with _endpoint(url, flags, Surroundings(client_key=lambda: "mine"), is_talk=False) as found:
            assert found.key == sent
    assert client_key({"OPENAI_API_KEY": "mine"}) == "mine"
    assert client_key({"OPENAI_API_KEY": ""}) is None


@pytest.mark.parametrize(
    ("reply", "out"),
    [(refused(500, "broken"), ""), (Reply(events(chunk(content="half"), {"error": {"message": "broken"}})), "half\n")],
)
def test_a_failure_in_a_pipe_is_one_line_and_status_1(endpoint: ScriptedEndpoint, reply: Reply, out: str) -> None:
    endpoint.replies = [reply]
    done = piped(endpoint)
    assert (done.stdout, done.exit_code) == (out, 1)
    assert done.stderr.startswith("powertrain: broken")
    assert done.stderr.count("\n") == 1


def test_a_named_model_needs_no_list(endpoint: ScriptedEndpoint) -> None:
    endpoint.replies = [said("x")]
    endpoint.models = [{"no": "list"}]
    assert piped(endpoint, "--model", "it").stdout == "x\n"
    assert endpoint.bodies[0]["model"] == "it"
    assert "is no list of models; name one with --model" in piped(endpoint).stderr
    endpoint.models = []
    assert "the endpoint serves no model; name one with --model" in piped(endpoint).stderr


def test_who_wants_no_style_gets_none() -> None:
    environments = [{"TERM": "xterm"}, {"TERM": "dumb"}, {"TERM": "xterm", "NO_COLOR": "1"}]
    consoles = [Console(_environ=environment, force_terminal=True) for environment in environments]
    assert [_wants_style(console) for console in consoles] == [True, False, False]


def test_nothing_to_ask(endpoint: ScriptedEndpoint) -> None:
    done = piped(endpoint, question=" \n")
    assert (done.exit_code, endpoint.bodies) == (1, [])
    assert done.stderr == "powertrain: standard input is empty; pipe a question in, or start it in a terminal\n"


def test_a_reader_that_leaves_early_is_no_fault(endpoint: ScriptedEndpoint) -> None:
    endpoint.replies = [said(*["word " * 1000] * 100)]
    command = [sys.executable, str(ROOT / "powertrain.py"), "chat", endpoint.url]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdin.write("q")
        process.stdin.close()
        assert process.stdout.read(5) == "word "
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 1


class Terminal:
    """A person at a pseudo-terminal: types, and waits for what is shown."""

    def __init__(self, command: list[str]) -> None:
        environment = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
        environment |= {"TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1", "OPENAI_API_KEY": ""}
        self._pid, self._fd = pty.fork()
        if self._pid == 0:
            os.execve(command[0], command, environment)  # noqa: S606 - no shell
        self._unread = b""

    def wait_for(self, text: bytes) -> bytes:
        """What was shown until ``text`` and with it."""
        while text not in self._unread:
            self._unread += os.read(self._fd, 65536)
        seen, _, self._unread = self._unread.partition(text)
        return seen + text

    def type(self, keys: bytes) -> None:
        os.write(self._fd, keys)

    def end(self) -> int:
        """The exit status, once it has ended."""
        try:
            while os.read(self._fd, 65536):
                pass
        except OSError:
            pass  # how Linux says that the other side is closed
        os.close(self._fd)
        return os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])


def test_ctrl_c_stops_the_answer_and_the_conversation_goes_on(endpoint: ScriptedEndpoint) -> None:
    endpoint.wanted_key = "s3cret"
    endless = events(chunk(reasoning="hm"), chunk(content="once upon"), done=False)
    endpoint.replies = [Reply(endless, hold=True), said("again")]
    terminal = Terminal([sys.executable, str(ROOT / "powertrain.py"), "chat", endpoint.url])
    terminal.wait_for(b"Key for ")
    terminal.type(b"s3cret\r")
    assert b"s3cret" not in terminal.wait_for(b">>>")
    terminal.type(b"one\x0atwo\r")  # Ctrl-J
    assert b"\x1b[2m[thinking] hm\x1b[0m" in terminal.wait_for(b"once upon")
    terminal.type(b"\x03")
    terminal.wait_for(b"stopped")
    assert endpoint.left.wait(30), "the connection stayed open, and so does the answer at a server"
    terminal.wait_for(b">>>")
    terminal.type(b'forget this\x03"""a\rb"""\r')  # Ctrl-C empties the line
    terminal.wait_for(b"again")
    terminal.wait_for(b">>>")
    terminal.type(b"\x03")
    assert terminal.end() == 0
    assert endpoint.bodies[1]["messages"] == [
        {"role": "user", "content": "one\ntwo"},
        {"role": "assistant", "content": "once upon"},
        {"role": "user", "content": "a\nb"},
    ]


# Stands in for our server: says an address as it does, answers the probe, and tells what it was started with.
SERVER = """
import http.server, os, signal, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/v1/health/ready" else 404)
        self.end_headers()
    def log_message(self, *_):
        pass
server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
print("Serving it at http://127.0.0.1:%d/v1 (docs at /docs)" % server.server_port, file=sys.stderr, flush=True)
server.serve_forever()
"""

ENDS_WITH_PARENT = """
import ctypes, sys
value = ctypes.c_int()
ctypes.CDLL(None).prctl(2, ctypes.byref(value))  # PR_GET_PDEATHSIG
sys.exit(str(value.value))
"""


@contextmanager
def started(program: str) -> Iterator[Any]:
    with own_server(ServerLaunch((sys.executable, "-I", "-S", "-c", program), {}, "k")) as endpoint:
        yield endpoint


def test_a_server_of_ones_own_lives_as_long_as_the_block() -> None:
    numbers = (signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    with started(SERVER) as endpoint:
        assert endpoint.key == "k"
        assert endpoint.is_local
        assert all(now is not then for now, then in zip(map(signal.getsignal, numbers), before, strict=True))
    with ChatClient(endpoint) as client, pytest.raises(ChatError, match="nothing answers"):
        client.models()
    assert [signal.getsignal(number) for number in numbers] == before


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("import sys; sys.exit('first\\n│ no memory │')", "the model's server ended: no memory"),
        ("import sys; sys.exit('\\x1b[2Jgone')", "the model's server ended: ␛[2Jgone"),
        ("", "the model's server ended: it said nothing"),
        # Ctrl-C is for the foreground's group alone, and whatever ends this process ends the server.
        ("import os, sys; sys.exit(str(os.getpgrp() == os.getpid()))", "the model's server ended: True"),
        (ENDS_WITH_PARENT, f"the model's server ended: {signal.SIGTERM:d}"),
        ("import sys; sys.exit('X at http://127.0.0.1:9/v1\\nlost')", "the model's server ended: lost"),
        (
            "import sys; sys.stderr.write('X at https://h:9/v1\\n')",
            "the settings make the model's server answer at https",
        ),
    ],
)
def test_a_server_that_does_not_begin_is_told_in_its_words(program: str, said: str) -> None:
    with pytest.raises(ChatError) as caught, started(program):
        pass
    assert str(caught.value).startswith(said)


def test_a_model_without_a_package_is_told_as_by_serve(tmp_path: Path) -> None:
    around = Surroundings(home=lambda: tmp_path)
    done = CliRunner().invoke(powertrain.main, ["chat", "no-such"], input="q", obj=around)
    assert done.exit_code == 1
    assert done.stderr.startswith("powertrain: no server can be started for no-such")


def test_a_servers_environment_has_one_key_and_nobody_elses_address(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {
        "PATH": "/bin", "POWERTRAIN_THREADS": "2", "POWERTRAIN_PORT": "1", "POWERTRAIN_API_KEY": "x" * 9,
        "POWERTRAIN_MANAGEMENT_PORT": "2", "POWERTRAIN_API_KEY_FILE": "f", "NIM_HTTP_API_PORT": "3",
        "POWERTRAIN_MORE_MODELS": "b", "POWERTRAIN_MODEL_SETTING": "b:num_slots=1",
    }  # fmt: skip
    assert private_environment("secret", given) == {
        "PATH": "/bin", "POWERTRAIN_THREADS": "2", "POWERTRAIN_API_KEY": "chat=secret"
    }  # fmt: skip
    folder = ROOT / "models" / "somewhere"
    monkeypatch.setattr(powertrain, "_build", lambda model: folder / model)
    launch = powertrain._server("it")
    assert launch.command[2:] == (
        "serve", "--host", "127.0.0.1", "--port", "0", "--log-level", "warning", "--log-format", "text", "--",
        str(folder / "it"),
    )  # fmt: skip
    assert launch.environment["POWERTRAIN_API_KEY"] == f"chat={launch.key}"
    assert launch.key not in repr(launch)
    assert launch.key != powertrain._server("it").key
