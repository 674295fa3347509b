"""Where answers come from: an address as a person writes it -> a base URL and a key. Opens nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from urllib.parse import urlsplit

from runtime.loopback import is_loopback

from chat.errors import ChatError

CHAT_PATH = "/chat/completions"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """``url`` is the API's root without a trailing slash, such as ``http://127.0.0.1:8000/v1``; ``key`` its secret.

    Raises ChatError for a key that no header can hold.
    """

    url: str
    key: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.key is not None and not (self.key.isascii() and self.key.isprintable()):
            raise ChatError("the key holds characters that no key has; give it without line ends and accents")

    @property
    def is_local(self) -> bool:
        """True where nothing leaves this machine."""
        return is_loopback(urlsplit(self.url).hostname or "")

    @property
    def is_private(self) -> bool:
        """True where nobody on the way can read a key."""
        return self.is_local or self.url.startswith("https://")


def is_url(word: str) -> bool:
    """True for what can only be an address, not a model."""
    return "://" in word


def endpoint_from_url(url: str, key: str | None = None) -> Endpoint:
    """Parse ``http[s]://HOST[:PORT][/v1[/chat/completions]]``; no path means ``/v1``. Raises ChatError."""
    try:
        parts = urlsplit(url)
    except ValueError:  # half of a bracket, or a name that is another one when it is normalized
        raise ChatError("that is no address; give http://HOST:PORT or https://HOST[:PORT][/v1]") from None
    try:
        port = parts.port
    except ValueError as error:
        raise ChatError(f"{url!r} has a bad port; ports are 1..65535") from error
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ChatError(f"{url!r} is not an endpoint; give http://HOST:PORT or https://HOST[:PORT][/v1]")
    if parts.query or parts.fragment or parts.username or parts.password:
        raise ChatError("the address holds a query, fragment or user; give only scheme, host, port and path")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    path = parts.path.rstrip("/").removesuffix(CHAT_PATH) or "/v1"
    return Endpoint(f"{parts.scheme}://{host}{'' if port is None else f':{port}'}{path}", key)
