"""The page at ``/``: what this server is, whom it serves, and where to go on. Plain HTML without a script.

Knows neither requests nor the engine; whoever wants another page at ``/`` replaces this module.
"""

from __future__ import annotations

import binascii
import hashlib
import re
from dataclasses import dataclass
from html import escape

import msgspec

from api.pages.page import Page

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2526; --soft: #52606a; --paper: #fff; --box: #f2f6f5; --mark: #0f766e; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6ebea; --soft: #a3b0b5; --paper: #16191d; --box: #20262b; --mark: #5eead4; }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 1.0625rem/1.6 system-ui, sans-serif; }
main { max-width: 46rem; margin: 0 auto; padding: 4rem 1.5rem; }
h1 { margin: 0; font-size: 2.25rem; line-height: 1.2; }
h2 { margin: 2.5rem 0 .75rem; font-size: 1.125rem; }
p { margin: .75rem 0; }
small, .soft { color: var(--soft); font-size: .9375rem; }
a { color: var(--mark); text-underline-offset: .15em; }
a:focus-visible, pre:focus-visible { outline: 3px solid var(--mark); outline-offset: 3px; }
.first { display: inline-block; padding: .5rem 1.1rem; border-radius: .5rem; background: var(--mark);
  color: var(--paper); font-weight: 600; text-decoration: none; }
code, pre { font: .9375rem/1.5 ui-monospace, monospace; }
code { overflow-wrap: anywhere; }
pre { margin: 0; padding: 1rem; overflow-x: auto; border-radius: .5rem; background: var(--box); user-select: all; }
ul { margin: 0; padding: 0; list-style: none; display: grid; gap: .4rem 1.5rem;
  grid-template-columns: repeat(auto-fit, minmax(19rem, 1fr)); }
""".strip()
_STYLE_DIGEST = binascii.b2a_base64(hashlib.sha256(_STYLE.encode()).digest(), newline=False).decode()
WELCOME_POLICY = (
    f"default-src 'none'; style-src 'sha256-{_STYLE_DIGEST}'; img-src data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
_KEYLESS = frozenset({"openapi.json", "v1/health/ready"})
_ORIGIN = re.compile(r"https?://[A-Za-z0-9._~:\[\]/-]{1,300}")
_UNSAID = "http://localhost:8000"


class WelcomeBody(msgspec.Struct, frozen=True, kw_only=True):
    """What a client that is no browser gets. ``model`` is null where only a key's holder may know it."""

    name: str
    version: str
    model: str | None
    links: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Welcome:
    """What the page says. ``origin`` is the server's address as the browser knows it, text from a client."""

    version: str
    model: str | None
    origin: str
    has_docs: bool
    needs_key: bool


def welcome_page(about: Welcome) -> Page:
    """The page, of which nothing but a link can be followed."""
    return Page(_html(about).encode(), "text/html; charset=utf-8", policy=WELCOME_POLICY, vary="accept")


def _html(about: Welcome) -> str:
    served = f"<p>It serves <strong>{escape(about.model)}</strong>.</p>" if about.model is not None else ""
    key = "<p class=soft>Answers need an API key, which the operator of this server gives out.</p>"
    links = "".join(
        f"<li>{_linked(path, name, about)} <small><code>/{path}</code></small></li>" for path, name in _links(about)
    )
    docs = '<p><a class=first href="docs">Try it in the browser</a></p>' if about.has_docs else ""
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>powertrain</title>
<link rel="icon" href="data:,">
<style>{_STYLE}</style>
</head>
<body>
<main>
<h1>powertrain <small>{escape(about.version)}</small></h1>
<p>A language model behind the interfaces of OpenAI, Anthropic and NVIDIA NIM.</p>
{served}{key if about.needs_key else ""}{docs}
<h2 id="ask">Ask from a command line</h2>
<pre tabindex="0" aria-labelledby="ask"><code>{escape(_curl(about))}</code></pre>
<p class="soft">Client libraries take <code>{escape(_safe(about.origin))}/v1</code> as their base URL.</p>
<h2>More</h2>
<ul>{links}</ul>
</main>
</body>
</html>
"""


def _links(about: Welcome) -> list[tuple[str, str]]:
    """Path and name of each link; paths are relative, so that they are right behind a proxy that adds a prefix."""
    docs = [("openapi.json", "Interface (OpenAPI)")] if about.has_docs else []
    return [
        *docs,
        ("v1/models", "Served models"),
        ("v1/health/ready", "Readiness"),
        ("v1/metrics", "Metrics"),
        ("v1/license", "The model's licence"),
    ]


def _linked(path: str, name: str, about: Welcome) -> str:
    """A link, or just the name where following it would only say that a key is missing: browsers send none."""
    return escape(name) if about.needs_key and path not in _KEYLESS else f'<a href="{path}">{escape(name)}</a>'


def _curl(about: Welcome) -> str:
    name = msgspec.json.encode(about.model or "").decode().replace("'", "")
    model = f'"model": {name},\n       ' if about.model is not None else ""
    lines = [
        f"curl {_safe(about.origin)}/v1/chat/completions",
        "  -H 'Content-Type: application/json'",
        *(['  -H "Authorization: Bearer $API_KEY"'] if about.needs_key else []),
        f"""  -d '{{{model}"messages": [{{"role": "user", "content": "Hello!"}}]}}'""",
    ]
    return " \\\n".join(lines)


def _safe(origin: str) -> str:
    """The address if a shell reads it as one word."""
    return origin if _ORIGIN.fullmatch(origin) else _UNSAID
