"""A registry's challenge ─▶ the ``Authorization`` header that answers it: Basic, or a Bearer token from its realm.

Secrets go to the registry, or to the realm that it names, and only over TLS or inside this machine.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from urllib.parse import urlsplit

import httpx
import msgspec

from export.errors import TransferError
from export.ship.credentials import Credentials
from export.ship.reference import is_local_place

_CHALLENGE = re.compile(r"(?P<kind>Bearer|Basic)(?:\s+(?P<rest>.*))?", re.IGNORECASE | re.DOTALL)
_PARAMETER = re.compile(r'(?P<name>[a-z]+)="(?P<value>[^"]*)"', re.IGNORECASE)
_TOKEN = re.compile(r"[A-Za-z0-9._~+/=-]+")
_MAX_TOKEN_BYTES = 2**18
_CLIENT = "powertrain"


class _TokenAnswer(msgspec.Struct, frozen=True):
    token: str = ""
    access_token: str = ""


def answer_challenge(
    client: httpx.Client, host: str, challenge: str, scope: str, credentials: Callable[[], Credentials | None],
    *, plain_http: bool,
) -> str:  # fmt: skip
    """The header's value. Raises TransferError where nobody here can answer; httpx.TransportError on the way."""
    found = _CHALLENGE.match(challenge.strip())
    known = credentials()
    if found is None:
        raise TransferError(f"{host} wants a login of a kind that is not known here")
    if found["kind"].lower() == "basic":
        if known is None or known.identity_token:
            raise TransferError(f"{host} wants a login; run 'docker login {host}'")
        return known.basic
    values = {one["name"].lower(): one["value"] for one in _PARAMETER.finditer(found["rest"] or "")}
    realm = _checked_realm(values.get("realm", ""), host, plain_http=plain_http)
    fields = {"service": values.get("service", ""), "scope": values.get("scope") or scope}
    if known is not None and known.identity_token:
        form = {**fields, "grant_type": "refresh_token", "refresh_token": known.identity_token, "client_id": _CLIENT}
        request = client.build_request("POST", realm, data=form)
    else:
        headers = {} if known is None else {"Authorization": known.basic}
        request = client.build_request("GET", realm, params=fields, headers=headers)
    response = client.send(request, stream=True)
    try:
        return f"Bearer {_token(response, host, has_login=known is not None)}"
    finally:
        response.close()


def _checked_realm(realm: str, host: str, *, plain_http: bool) -> str:
    try:
        parts = urlsplit(realm)
    except ValueError:
        raise TransferError(f"{host} asks for a login at a place that is none") from None
    is_safe = parts.scheme == "https" or (parts.scheme == "http" and (plain_http or is_local_place(parts.netloc)))
    if not is_safe or not parts.netloc or "@" in parts.netloc:
        raise TransferError(f"{host} asks for a login at a place that is not safe to send one to")
    return realm


def _token(response: httpx.Response, host: str, *, has_login: bool) -> str:
    if response.status_code in {400, 401, 403}:
        what = "does not accept the login that docker keeps for it" if has_login else "wants a login"
        raise TransferError(f"{host} {what}; run 'docker login {host}'")
    try:
        if response.status_code != httpx.codes.OK:
            raise ValueError
        answer = msgspec.json.decode(_short_body(response), type=_TokenAnswer)
    except (msgspec.MsgspecError, UnicodeDecodeError, ValueError):
        raise TransferError(f"{host} gave no token (status {response.status_code})") from None
    token = answer.token or answer.access_token
    if not _TOKEN.fullmatch(token):
        raise TransferError(f"{host} gave no token that can be used")
    return token


def _short_body(response: httpx.Response) -> bytes:
    """The body, of which no more is read than a token can have. Raises ValueError for a longer one."""
    data = bytearray()
    for block in response.iter_bytes():
        data += block
        if len(data) > _MAX_TOKEN_BYTES:
            raise ValueError
    return bytes(data)
