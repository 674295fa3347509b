"""Compares chat templates line by line, and tokenizers by what a text's ids hang on: tokens, merges, the rest by name.

Knows the layout of ``tokenizer.json`` and no tokenizer library.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from itertools import zip_longest
from typing import Any

import msgspec
from runtime.errors import PackageError
from runtime.package.manifest import CHAT_TEMPLATE_FILE, TOKENIZER_FILE, Package

from export.compare.difference import Difference

_MAX_TOKENS_SHOWN = 5
_IN_MODEL = ("vocab", "merges")


def template_differences(a: Package, b: Package) -> list[Difference]:
    """The lines of the chat templates that only one side has, in order."""
    found = []
    for line in difflib.ndiff(_template(a).splitlines(), _template(b).splitlines()):
        if line[:2] == "- ":
            found.append(Difference("template", "line", repr(line[2:]), ""))
        elif line[:2] == "+ ":
            found.append(Difference("template", "line", "", repr(line[2:])))
    return found


def tokenizer_differences(a: Package, b: Package) -> list[Difference]:
    """Tokens with another id or on one side only, the first merge that differs, and sections that differ, by name.

    Raises PackageError for a tokenizer that is no JSON object.
    """
    documents = [_document(package) for package in (a, b)]
    models = [_mapping(document.get("model")) for document in documents]
    found = _vocabulary_differences(*(_vocabulary(model, doc) for model, doc in zip(models, documents, strict=True)))
    merges = [model.get("merges") or [] for model in models]
    first = next((rank for rank, (x, y) in enumerate(zip_longest(*merges)) if x != y), None)
    if first is not None:
        shown = [f"{one[first]!r} at rank {first} of {len(one)}" if first < len(one) else "" for one in merges]
        found.append(Difference("tokenizer", "merges", *shown))
    sections = [
        {name: value for name, value in document.items() if name not in {"model", "added_tokens"}}
        | {f"model.{name}": value for name, value in model.items() if name not in _IN_MODEL}
        for document, model in zip(documents, models, strict=True)
    ]
    return found + [
        Difference("tokenizer", name, *(_json(one.get(name)) for one in sections))
        for name in dict.fromkeys([*sections[0], *sections[1]])
        if sections[0].get(name) != sections[1].get(name)
    ]


def _vocabulary_differences(a: Mapping[str, int], b: Mapping[str, int]) -> list[Difference]:
    """The first few tokens that differ, by their id, and how many more there are."""
    odd = sorted((token for token in {*a, *b} if a.get(token) != b.get(token)), key=lambda t: a.get(t, b.get(t, 0)))
    found = [
        Difference("tokenizer", f"token {token!r}", _id(a.get(token)), _id(b.get(token)))
        for token in odd[:_MAX_TOKENS_SHOWN]
    ]
    if more := len(odd) - len(found):
        found.append(Difference("tokenizer", f"{more} more tokens", f"{len(a)} in all", f"{len(b)} in all"))
    return found


def _vocabulary(model: Mapping[str, Any], document: Mapping[str, Any]) -> dict[str, int]:
    """Token -> id: a mapping in BPE's and WordPiece's files, a list of (token, score) in Unigram's."""
    vocab = model.get("vocab") or {}
    tokens = dict(vocab) if isinstance(vocab, dict) else {entry[0]: rank for rank, entry in enumerate(vocab)}
    return tokens | {added["content"]: added["id"] for added in document.get("added_tokens") or []}


def _document(package: Package) -> dict[str, Any]:
    known = TOKENIZER_FILE in package.manifest.files
    text = package.read_bytes(TOKENIZER_FILE, package.manifest.files[TOKENIZER_FILE].size) if known else b"{}"
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except msgspec.MsgspecError as error:
        raise PackageError(f"{package.manifest.name}: {TOKENIZER_FILE} is no JSON object ({error})") from error


def _template(package: Package) -> str:
    return package.read_text(CHAT_TEMPLATE_FILE) if CHAT_TEMPLATE_FILE in package.manifest.files else ""


def _mapping(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _id(number: int | None) -> str:
    return "" if number is None else f"id {number}"


def _json(value: object) -> str:
    return "" if value is None else msgspec.json.encode(value).decode()
