"""Compares what two manifests say, field by field, and the digests of their files.

When a package was built, and how long that took, makes no difference. Knows no file but by its digest.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
from runtime.package.manifest import PROVENANCE_FILES, Manifest
from runtime.package.package_file import FileInfo

from export.compare.difference import Difference

_NO_DIFFERENCE = {"build_seconds", "created_unix", "files"}
_OF_THE_PACKAGE = "package"


def manifest_differences(a: Manifest, b: Manifest) -> list[Difference]:
    """Every field of the manifests that differs, in their order; then files that differ or that one side lacks."""
    fields = [dict(_leaves(msgspec.to_builtins(manifest))) for manifest in (a, b)]
    found = [
        Difference(*_section(name), _shown(fields[0].get(name)), _shown(fields[1].get(name)))
        for name in dict.fromkeys([*fields[0], *fields[1]])
        if fields[0].get(name) != fields[1].get(name)
    ]
    return found + _file_differences(a.files, b.files)


def _leaves(value: object, name: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names and values of all that is no mapping; what makes no difference is left out."""
    if not isinstance(value, dict):
        yield name, value
        return
    for key, inner in value.items():
        if name or key not in _NO_DIFFERENCE:
            yield from _leaves(inner, f"{name}.{key}" if name else str(key))


def _section(name: str) -> tuple[str, str]:
    section, _, rest = name.partition(".")
    return (section, rest) if rest else (_OF_THE_PACKAGE, section)


def _shown(value: object) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(_shown, value))
    return "" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)


def _file_differences(a: dict[str, FileInfo], b: dict[str, FileInfo]) -> list[Difference]:
    return [
        Difference("files", name, _digest(a.get(name)), _digest(b.get(name)))
        for name in sorted({*a, *b} - PROVENANCE_FILES)  # they say again what the manifests say
        if a.get(name) != b.get(name)
    ]


def _digest(info: FileInfo | None) -> str:
    return "" if info is None else f"{info.size:,} bytes, sha256 {info.sha256[:12]}"
