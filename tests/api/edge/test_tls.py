"""HTTPS over a real socket: the real clients, a certificate that is renewed while a stream goes on, wrong files."""

from __future__ import annotations

import contextlib
import logging
import re
import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest
from click.testing import CliRunner

import powertrain
from api.edge.tls import ServerCertificate
from api.errors import SettingsError
from api.server_settings import Settings
from api.settings_rules import check_settings
from tests.api.edge.test_client_limits import reload
from tests.api.scripted_server import RunningServer, running_server, user

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificates")


def make(folder: Path, name: str, *options: str) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that signs itself, and its key."""
    cert, key = folder / f"{name}.pem", folder / f"{name}-key.pem"
    kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    subject = ["-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1"]
    more = [*options] if options else ["-nodes", "-days", "90"]
    command = ["openssl", "req", "-x509", *kind, "-keyout", str(key), "-out", str(cert), *subject, *more]
    subprocess.run(command, check=True, capture_output=True)
    return cert, key


def backdated(files: tuple[Path, Path], cert: Path) -> tuple[Path, Path]:
    """The same certificate with other dates; its signature, which nobody who trusts it looks at, is wrong then."""
    der = ssl.PEM_cert_to_DER_cert(files[0].read_text())
    years = iter((b"19", b"20"))
    der = re.sub(rb"(?<=\x17\x0d)\d\d(?=\d{10}Z)", lambda _: next(years), der)
    cert.write_text(ssl.DER_cert_to_PEM_cert(der))
    return cert, files[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tls")


@pytest.fixture(scope="module")
def first(folder: Path) -> tuple[Path, Path]:
    return make(folder, "first")


@pytest.fixture(scope="module")
def second(folder: Path) -> tuple[Path, Path]:
    return make(folder, "second")


@pytest.fixture(scope="module")
def secured(folder: Path, first: tuple[Path, Path]) -> Iterator[RunningServer]:
    cert, key = (shutil.copy(path, folder / f"served-{path.name}") for path in first)
    with running_server(
        tls_cert=str(cert), tls_key=str(key), ca=first[0], management_port=0, keep_alive_s=0.05, header_timeout_s=60.0,
        max_connections=8,
    ) as server:  # fmt: skip
        yield server


def serve(server: RunningServer, files: tuple[Path, Path]) -> None:
    """Put files in place of those that are served, and tell the server."""
    settings = server.service.settings
    assert settings.tls_cert is not None
    assert settings.tls_key is not None
    shutil.copy(files[0], settings.tls_cert)
    shutil.copy(files[1], settings.tls_key)
    reload(server)


def name_shown(port: int, *trusted: Path) -> str:
    """The common name in the certificate that a new connection gets."""
    context = ssl.create_default_context()
    for path in trusted:
        context.load_verify_locations(path)
    with socket.create_connection(("127.0.0.1", port)) as plain, context.wrap_socket(
        plain, server_hostname="127.0.0.1"
    ) as sock:  # fmt: skip
        found = sock.getpeercert()
    assert found is not None
    return str(dict(pair[0] for pair in found["subject"])["commonName"])  # type: ignore[misc]


def test_a_probe_asks_as_the_settings_say(secured: RunningServer, first: tuple[Path, Path]) -> None:
    port = str(secured.port)
    environ = {"POWERTRAIN_PORT": port, "NIM_SSL_CERT_PATH": str(first[0]), "NIM_SSL_KEY_PATH": str(first[1])}
    done = CliRunner().invoke(powertrain.main, ["probe"], env=environ)
    assert done.exit_code == 0, done.output
    plain = CliRunner().invoke(powertrain.main, ["probe"], env={"POWERTRAIN_PORT": port})
    assert plain.exit_code == 1
    assert "no answer from 127.0.0.1" in " ".join(plain.output.split())


def test_openais_client_speaks_to_it_and_a_stream_outlives_a_new_certificate(
    secured: RunningServer, first: tuple[Path, Path], second: tuple[Path, Path]
) -> None:
    trusting = openai.DefaultHttpxClient(verify=ssl.create_default_context(cafile=str(first[0])))
    with openai.OpenAI(base_url=f"{secured.base_url}/v1", api_key="x", http_client=trusting, max_retries=0) as client:
        secured.gate.open.clear()
        body = {"messages": [user("*ab")], "max_tokens": 6, "stream": True}
        with secured.http.stream("POST", "/v1/chat/completions", json=body) as stream:
            assert name_shown(secured.port, first[0], second[0]) == "first"
            serve(secured, second)
            assert name_shown(secured.port, first[0], second[0]) == "second"
            assert secured.management_port is not None
            assert name_shown(secured.management_port, first[0], second[0]) == "second"
            secured.gate.open.set()
            assert b"[DONE]" in stream.read()
        with pytest.raises(openai.APIConnectionError):
            client.models.list()
        serve(secured, first)
        answer = client.chat.completions.create(model="alias-name", messages=[{"role": "user", "content": "abc"}])
        assert answer.choices[0].message.content == "abc"


def test_a_broken_certificate_changes_nothing(
    secured: RunningServer, first: tuple[Path, Path], second: tuple[Path, Path], caplog: pytest.LogCaptureFixture
) -> None:
    serve(secured, (first[0], second[1]))
    errors = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert len(errors) == 1
    assert "the certificate stays as it was: tls_key: " in errors[0]
    assert name_shown(secured.port, first[0]) == "first"
    serve(secured, first)


def test_old_versions_and_plain_http_are_refused(secured: RunningServer, first: tuple[Path, Path]) -> None:
    old = ssl.create_default_context(cafile=str(first[0]))
    cut = secured.metric("connection_cut_total", reason="handshake")
    with pytest.deprecated_call():
        old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
    old.set_ciphers("ALL:@SECLEVEL=0")
    with socket.create_connection(("127.0.0.1", secured.port)) as sock, pytest.raises(ssl.SSLError, match=r"EOF|ALERT"):
        old.wrap_socket(sock, server_hostname="127.0.0.1")
    with pytest.raises(httpx.TransportError):
        httpx.get(f"http://127.0.0.1:{secured.port}/v1/health/live")
    secured.wait_for(lambda: secured.metric("connection_cut_total", reason="handshake") - cut == 2)
    assert secured.get("/v1/health/live").status_code == 200


def test_silent_connections_make_room_and_end(secured: RunningServer, first: tuple[Path, Path]) -> None:
    """More of them than there are places, none of which ever begins its handshake."""
    limits = secured.server._limits
    with contextlib.ExitStack() as stack:

        def connect() -> socket.socket:
            return stack.enter_context(socket.create_connection(("127.0.0.1", secured.port), timeout=10))

        silent = [connect() for _ in range(24)]
        assert name_shown(secured.port, first[0]) == "first"
        for sock in silent[: 24 - limits.max_connections]:  # each gave way to a newcomer, long before its time was up
            assert ends(sock)
        object.__setattr__(limits, "header_timeout_s", 0.05)  # of those that come from now on
        assert ends(connect())
        object.__setattr__(limits, "header_timeout_s", 60.0)
    secured.wait_for(lambda: not any(listener._opening for listener in secured.server._listeners))


def ends(sock: socket.socket) -> bool:
    """True when the server closes a connection, False when it sends anything."""
    try:
        return sock.recv(1) == b""
    except ConnectionError:
        return True


def test_files_that_do_not_serve_end_the_start(
    folder: Path, first: tuple[Path, Path], second: tuple[Path, Path]
) -> None:
    locked = make(folder, "locked", "-passout", "pass:x")
    text = folder / "text.pem"
    text.write_text("no certificate")
    for cert, key, message in (
        (folder / "none.pem", first[1], "tls_cert: .*none.pem is not readable: No such file"),
        (first[0], folder / "none.pem", "tls_key: .*none.pem is not readable: No such file"),
        (first[0], second[1], "tls_key: .*second-key.pem is not the key of the certificate in .*first.pem"),
        (text, first[1], "are not both PEM"),
        (first[0], text, "are not both PEM"),
        (*locked, "locked-key.pem is encrypted.*openssl pkey"),
    ):
        with pytest.raises(SettingsError, match=message):
            ServerCertificate(cert, key)
    for settings in (Settings(tls_cert="x"), Settings(tls_key="x")):
        with pytest.raises(SettingsError, match=r"is set but .* is not; HTTPS needs both"):
            check_settings(settings)


def test_what_clients_will_refuse_is_a_warning(
    folder: Path, first: tuple[Path, Path], caplog: pytest.LogCaptureFixture
) -> None:
    ended = backdated(first, folder / "ended.pem")
    soon = make(folder, "soon", "-nodes", "-days", "3")
    with caplog.at_level(logging.INFO, "powertrain.server"):
        for files in (ended, soon):
            ServerCertificate(*files).log_state()
        first[1].chmod(0o644)
        ServerCertificate(*first).log_state()
    told = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert told[0][0] == "WARNING"
    assert told[0][1].endswith("ended.pem: certificate has expired")
    assert told[1][0] == "WARNING"
    assert "soon.pem, valid until" in told[1][1]
    assert told[2] == ("WARNING", f"tls_key: everybody on this machine may read {first[1]}")
    assert told[3][0] == "INFO"
    assert "first.pem, valid until" in told[3][1]
