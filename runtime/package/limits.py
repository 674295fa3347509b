"""How large the numbers and names in a package's own files may be, and how such a file is read within them.

A package may come from anywhere. Every number that sizes memory or work later has a bound here, far above any real
model's, so that a wrong one is named when the file is read. Knows no file's schema.
"""

from __future__ import annotations

from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta

MAX_VOCAB_SIZE = 2**22
MAX_TOKENIZER_BYTES = 64 * 2**20
"""Twice the largest published tokenizer.json (Gemma 3's has 33 MB)."""
MAX_TEXT_BYTES = 4 * 2**20

Name = Annotated[str, Meta(min_length=1, max_length=512)]
FolderName = Annotated[str, Meta(max_length=255, pattern=r"^(?!\.{1,2}\Z)[A-Za-z0-9_.-]+\Z")]
"""A package's own name, by which folders and files are called that are made of it."""
ServedName = Annotated[str, Meta(max_length=512, pattern=r"^[^\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e]+\Z")]
"""What clients call a model: anything that stays on one line of a terminal as it is written."""
Text = Annotated[str, Meta(max_length=4096)]
Size = Annotated[int, Meta(ge=0, le=2**50)]
Sha256 = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
Seconds = Annotated[float, Meta(ge=0)]
TokenId = Annotated[int, Meta(ge=0, lt=MAX_VOCAB_SIZE)]
Tokens = Annotated[int, Meta(ge=1, le=2**27)]
Layers = Annotated[int, Meta(ge=1, le=4096)]
Width = Annotated[int, Meta(ge=1, le=65536)]
Vocabulary = Annotated[int, Meta(ge=1, le=MAX_VOCAB_SIZE)]

_MAX_REASON_CHARS = 300

Document = TypeVar("Document")


def decode_document(data: bytes, to: type[Document]) -> Document:
    """JSON ``data`` as ``to``. Raises ValueError in one short line, also for nesting that would exhaust the stack."""
    try:
        return msgspec.json.decode(data, type=to)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        reason = str(error)
        shown = reason if len(reason) <= _MAX_REASON_CHARS else reason[:_MAX_REASON_CHARS] + "..."
        raise ValueError(shown) from error


class _Versioned(msgspec.Struct):
    schema_version: int


def schema_version_of(data: bytes) -> int:
    """``schema_version`` of a JSON document, whatever else its version has. Raises ValueError in one short line."""
    return decode_document(data, _Versioned).schema_version
