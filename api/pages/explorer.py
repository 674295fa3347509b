"""The page of ``/docs``, where the interface can be read and tried, and the files that it loads. Knows no route.

The explorer is RapiDoc, kept in ``rapidoc/`` with its version, digests and licences; ``files/`` holds what is ours.
"""

from __future__ import annotations

from functools import cache

from api.pages.packaged import packaged
from api.pages.page import Page

# RapiDoc writes style elements and style attributes into its shadow trees; everything else is files of this server.
EXPLORER_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_FILES = {
    "rapidoc-min.js": ("rapidoc", "text/javascript; charset=utf-8"),
    "LICENSE.txt": ("rapidoc", "text/plain; charset=utf-8"),
    "THIRD-PARTY-LICENSES.txt": ("rapidoc", "text/plain; charset=utf-8"),
    "explorer.js": ("files", "text/javascript; charset=utf-8"),
    "explorer.css": ("files", "text/css; charset=utf-8"),
}
FILE_NAMES = frozenset(_FILES)


@cache
def explorer_page(base: str) -> Page:
    """The page. ``base`` leads from its address to the server's root: ``./`` or ``../``."""
    text = packaged("files/explorer.html").decode()
    return Page(text.replace("{base}", base).encode(), "text/html; charset=utf-8", policy=EXPLORER_POLICY)


@cache
def explorer_file(name: str) -> Page:
    """One of ``FILE_NAMES``."""
    folder, content_type = _FILES[name]
    return Page(packaged(f"{folder}/{name}"), content_type)
