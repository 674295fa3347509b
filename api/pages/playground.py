"""The playground: the page at ``/`` for browsers, and the files that it loads. Knows no route and no model.

``playground/`` holds what is ours, as plain ES modules that no build step touches; ``libraries/`` what is not, with
versions, digests and licences. The page itself tells nothing of the model: its script asks the server, with a key where
one is needed.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from api.pages.packaged import packaged
from api.pages.page import Page

# Trusted Types: in browsers that have them no text becomes HTML or code unless DOMPurify made it harmless.
PLAYGROUND_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types dompurify"
)
_HERE = Path(__file__).parent
_SCRIPT = "text/javascript; charset=utf-8"
_TYPES = {".js": _SCRIPT, ".mjs": _SCRIPT, ".css": "text/css; charset=utf-8", ".txt": "text/plain; charset=utf-8"}


@cache
def playground_page(base: str) -> Page:
    """The page. ``base`` leads from its address to the server's root: empty, or a prefix's last part and a slash."""
    text = packaged("playground/index.html").decode()
    page = text.replace("{base}", base).encode()
    return Page(page, "text/html; charset=utf-8", policy=PLAYGROUND_POLICY, vary="accept")


@cache
def playground_files() -> frozenset[str]:
    """The files' names: ``app.js`` is ours, ``libraries/marked/marked.esm.js`` is not."""
    ours = (path.name for path in (_HERE / "playground").iterdir())
    others = (f"libraries/{path.parent.name}/{path.name}" for path in (_HERE / "libraries").glob("*/*"))
    return frozenset(name for name in (*ours, *others) if Path(name).suffix in _TYPES)


@cache
def playground_file(name: str) -> Page:
    """One of ``playground_files``."""
    place = name if name.startswith("libraries/") else f"playground/{name}"
    return Page(packaged(place), _TYPES[Path(name).suffix])
