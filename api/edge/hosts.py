"""Which names this server answers to: the guard against DNS rebinding. Knows headers; knows no route.

A web page may point its own name at this machine's address and then call a server that asks for no key as if it were
the page's own. Its requests carry the page's name in ``Host``, so without a key only addresses, ``localhost`` and the
names that the operator gives are answered. An address in ``Host`` is no danger: nobody can repoint it.
"""

from __future__ import annotations

import ipaddress
from functools import lru_cache

from litestar.types import HTTPScope

from api.error_answer import ErrorAnswer
from api.server_settings import Settings

ANY = "*"
_MAX_HOST_BYTES = 300  # a name of 253, a port, and some room
_MAX_SHOWN = 100


class HostRule:
    """The names of one server. ``names`` may hold ``*``, and ``*.example.com`` for all below it."""

    def __init__(self, names: frozenset[str]) -> None:
        self._names = names
        self._is_allowed = lru_cache(maxsize=256)(self._judge)

    @property
    def allows_all(self) -> bool:
        """True when no name is refused."""
        return ANY in self._names

    def refusal(self, scope: HTTPScope) -> ErrorAnswer | None:
        """Why a request may not be answered, or None."""
        hosts = [value for name, value in scope["headers"] if name == b"host"]
        if len(hosts) > 1 or (not hosts and scope["http_version"] != "1.0"):
            return ErrorAnswer(400, f"A request needs exactly one Host header, got {len(hosts)}.")
        if not hosts or (len(hosts[0]) <= _MAX_HOST_BYTES and self._is_allowed(hosts[0])):
            return None
        shown = hosts[0].decode("latin-1")[:_MAX_SHOWN]
        message = f"This server does not answer to the host {shown!r}: use its address, or start it with"
        return ErrorAnswer(403, f"{message} --allowed-host {_shown_name(hosts[0])} (or with an API key).")

    def _judge(self, value: bytes) -> bool:
        if self.allows_all:
            return True
        name = host_name(value)
        if name is None:
            return False
        if name in self._names or any(name.endswith(rule[1:]) for rule in self._names if rule.startswith("*.")):
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name == "localhost" or name.endswith(".localhost")
        return True


def host_rule(settings: Settings, *, has_keys: bool) -> HostRule:
    """The rule that the settings ask for: with a key every name is answered, unless some are named."""
    named = frozenset(name.lower() for name in settings.allowed_host)
    if not named and has_keys:
        return HostRule(frozenset({ANY}))
    return HostRule(named | {settings.host.lower()})


def host_name(value: bytes) -> str | None:
    """The name or address in a ``Host`` header, lower case, without port and brackets; None when it holds none."""
    text = value.decode("latin-1").strip().lower()
    name, bracket, port = text[1:].partition("]") if text.startswith("[") else ("", "", "")
    if not bracket:
        name, _, port = text.partition(":")
        port = f":{port}" if port else ""
    is_port = port == "" or (port.startswith(":") and (port[1:].isdecimal() or port == ":"))
    is_name = bool(name) and name.isascii() and name.isprintable() and not set(name) & set("/\\@?#[] ")
    return name.removesuffix(".") if is_port and is_name else None


def _shown_name(value: bytes) -> str:
    name = host_name(value)
    return name if name is not None and len(name) <= _MAX_SHOWN else "NAME"
