"""Which path a request means: without the prefix that a proxy kept, and with the ``/v1`` that a client left out.

The outermost layer, so that keys, hosts, logs and routes see one spelling of a path only. Knows prefixes and the paths
that it is given; knows no route's meaning.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from litestar.enums import ScopeType
from litestar.types import ASGIApp, Receive, Scope, Send

from api.server_settings import Settings

VERSION = "/v1"


@dataclass(frozen=True, slots=True)
class PathRule:
    """How paths may be written. ``root`` is a proxy's prefix such as ``/llm``, or empty.

    ``served`` are the paths below ``/v1`` that are found without it as well; one that ends in a slash stands for all
    that begin with it.
    """

    root: str = ""
    served: frozenset[str] = frozenset()

    def meant(self, path: str) -> str:
        """The path as routes are written. What begins with the root lies below it; everything else is taken as it is:
        most proxies strip their prefix."""
        if self.root and (path == self.root or path.startswith(self.root + "/")):
            path = path[len(self.root) :] or "/"
        return VERSION + path if self._is_unversioned(path) else path

    def _is_unversioned(self, path: str) -> bool:
        plain = path.rstrip("/")
        return plain in self.served or any(plain.startswith(one) for one in self.served if one.endswith("/"))


def path_rule(settings: Settings, routes: Iterable[str]) -> PathRule:
    """The rule that the settings ask for, given every route's path; ``{...}`` ends what is fixed of one.

    A path that is a route itself keeps its meaning.
    """
    if not settings.unversioned_paths:
        return PathRule(settings.root_path)
    fixed = {route.partition("{")[0] for route in routes}
    below = {path.removeprefix(VERSION) for path in fixed if path.startswith(VERSION + "/")}
    return PathRule(settings.root_path, frozenset(below - fixed))


class Paths:
    """ASGI wrapper that hands each request on with the path it means."""

    def __init__(self, app: ASGIApp, rule: PathRule) -> None:
        self._app = app
        self._rule = rule

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection; other than HTTP passes through."""
        if scope["type"] == ScopeType.HTTP:
            given = scope["path"]
            meant = self._rule.meant(given)
            if meant != given:
                scope = {**scope, "path": meant}
        await self._app(scope, receive, send)
