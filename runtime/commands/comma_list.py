"""Options whose value is a list: items between commas, and the flag as often as one likes. Knows no option."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import rich_click as click


def _joined(_context: click.Context, _option: click.Parameter, values: Sequence[str] | None) -> str | None:
    """The values of a repeated flag in the form that one flag with all of them has."""
    return ",".join(values) if values else None


COMMA_LIST: dict[str, Any] = {"multiple": True, "callback": _joined}
"""What ``click.option`` gets for such an option: its function gets one text, or None. A default is a tuple of texts."""
