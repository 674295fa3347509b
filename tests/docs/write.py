"""``python -m tests.docs.write``: everything in docs/ that is made from the code, written anew (``make reference``)."""

from __future__ import annotations

from collections.abc import Callable

from tests.docs.made import commands, http, messages, rooms, settings
from tests.paths import ROOT

MADE: dict[str, Callable[[], str]] = {
    "docs/reference/settings.md": settings.page,
    "docs/reference/commands.md": commands.page,
    "docs/reference/http.md": http.page,
    "docs/reference/messages.md": messages.page,
    "docs/rooms.svg": rooms.picture,
}
"""Each made file by its path in the checkout, and what makes it."""


def main() -> None:
    """Write all of them; prints the names of those that changed."""
    for name, make in MADE.items():
        path, text = ROOT / name, make()
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            print(name)


if __name__ == "__main__":
    main()
