"""What passes between the server and the process that renders templates: jobs and renderings, as MessagePack.

Knows no process and no template.
"""

from __future__ import annotations

from typing import Any

import msgspec

# What templates get from the server; nobody may hand in a value of the same name.
RESERVED_NAMES = frozenset(
    {"messages", "tools", "documents", "add_generation_prompt", "raise_exception", "strftime_now"}
)


class TemplateLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds of one rendering. A template that exceeds ``deadline_s`` (of wall-clock time) is killed."""

    source_chars: int = 1_000_000
    output_chars: int = 32_000_000
    deadline_s: float = 2.0
    memory_bytes: int = 512 * 1024 * 1024


class Job(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """One rendering; without ``messages`` the template is only compiled.

    ``server_texts`` (``bos_token``, ...) and the roles in ``messages`` that the API knows are the server's own words;
    all else comes from outside. ``implied`` are variables for a template that knows their names. ``now`` is ISO 8601.
    """

    source: str
    now: str
    messages: list[dict[str, Any]] | None = None
    tools: list[Any] | None = None
    documents: list[Any] | None = None
    variables: dict[str, Any] = msgspec.field(default_factory=dict)
    implied: dict[str, Any] = msgspec.field(default_factory=dict)
    server_texts: dict[str, str] = msgspec.field(default_factory=dict)
    add_generation_prompt: bool = True
    continue_final_message: bool = False


class Rendering(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """A prompt's text and the spans of it that are the template's or the server's own words; or why there is none."""

    text: str = ""
    spans: tuple[tuple[int, int], ...] = ()
    error: str | None = None
