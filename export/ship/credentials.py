"""Who we are to a registry, as ``docker login`` left it: docker's ``config.json`` and its credential helpers.

Read when a registry asks, shown nowhere: a secret is in no message, no ``repr`` and no log.
"""

from __future__ import annotations

import base64
import binascii
import re
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
from runtime.package.package_file import read_at_most

from export.errors import TransferError

_CONFIG_MAX_BYTES = 2**20
_HELPER_SECONDS = 30
_HELPER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_HUB_HOST, _HUB_KEY = "docker.io", "https://index.docker.io/v1/"
_TOKEN_USER = "<token>"  # noqa: S105 - what helpers write in place of a name when the secret is an identity token


@dataclass(frozen=True, slots=True)
class Credentials:
    """A user with a password, or a token that a registry's login gave, which stands for both."""

    user: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)

    @property
    def basic(self) -> str:
        """The value of an ``Authorization`` header."""
        return "Basic " + base64.b64encode(f"{self.user}:{self.password}".encode()).decode("ascii")


class _Auth(msgspec.Struct, frozen=True):
    auth: str = ""
    username: str = ""
    password: str = ""
    identitytoken: str = ""


class _DockerConfig(msgspec.Struct, frozen=True, rename={"creds_store": "credsStore", "cred_helpers": "credHelpers"}):
    auths: dict[str, _Auth] = {}
    creds_store: str = ""
    cred_helpers: dict[str, str] = {}


class _HelperAnswer(msgspec.Struct, frozen=True, rename="pascal"):
    username: str
    secret: str


def find_credentials(config: Path | None, host: str) -> Credentials | None:
    """What docker's ``config`` has for a registry; None without a file, or without an entry. Raises TransferError."""
    if config is None or not config.is_file():
        return None
    try:
        if (data := read_at_most(config, _CONFIG_MAX_BYTES)) is None:
            raise TransferError(f"{config.name} is larger than {_CONFIG_MAX_BYTES} bytes; it is not docker's")
        found = msgspec.json.decode(data, type=_DockerConfig)
    except OSError as error:
        raise TransferError(f"docker's {config.name} cannot be read ({error.strerror})") from error
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise TransferError(f"docker's {config.name} is not readable; 'docker login' writes it") from None
    names = [_HUB_KEY, _HUB_HOST] if host == _HUB_HOST else [host, f"https://{host}", f"https://{host}/"]
    for name in names:
        if name in found.cred_helpers:
            return _ask_helper(found.cred_helpers[name], name)
        if name in found.auths and (known := _from_entry(found.auths[name], host)) is not None:
            return known
    return _ask_helper(found.creds_store, names[0]) if found.creds_store else None


def _from_entry(entry: _Auth, host: str) -> Credentials | None:
    user, password = entry.username, entry.password
    if entry.auth:
        try:
            user, _, password = base64.b64decode(entry.auth, validate=True).decode("utf-8").partition(":")
        except (binascii.Error, UnicodeDecodeError):
            raise TransferError(f"docker's login for {host} is damaged; run 'docker login {host}' again") from None
    if entry.identitytoken:
        return Credentials(user, identity_token=entry.identitytoken)
    return Credentials(user, password) if user else None


def _ask_helper(name: str, server: str) -> Credentials | None:
    """``docker-credential-NAME get``, which says on its output who we are; None where it knows nobody."""
    if not _HELPER_NAME.fullmatch(name):
        raise TransferError("docker's config.json names a credential helper that is no program's name")
    command = [f"docker-credential-{name}", "get"]
    try:
        done = subprocess.run(  # noqa: S603 - a fixed word, and a name as docker takes it
            command, input=server.encode(), capture_output=True, timeout=_HELPER_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise TransferError(f"docker's credential helper docker-credential-{name} did not answer") from error
    if done.returncode:
        return None
    try:
        answer = msgspec.json.decode(done.stdout, type=_HelperAnswer)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise TransferError(f"docker's credential helper docker-credential-{name} gave no answer") from None
    if answer.username == _TOKEN_USER:
        return Credentials(identity_token=answer.secret)
    return Credentials(answer.username, answer.secret)
