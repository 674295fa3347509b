"""Which addresses are this machine's own: what goes there needs no key and no HTTPS. Asks no resolver."""

from __future__ import annotations

import ipaddress


def is_loopback(host: str) -> bool:
    """True when only programs on this machine reach, or answer at, an address without a port, or ``localhost``."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
