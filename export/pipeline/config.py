"""The pipeline file: its tables and keys, read strictly. What they multiply to is ``matrix``'s.

An error names the file, the table and the key, and the key that a wrong one is probably meant to be.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta
from runtime.defaults import DEFAULT_SLOTS
from runtime.did_you_mean import did_you_mean

from export.errors import PipelineError

_MAX_BYTES = 2**20
_UNKNOWN = re.compile(r"Object contains unknown field `(?P<key>[^`]*)`(?: - at `\$(?P<place>[^`]*)`)?")
_PLACED = re.compile(r"(?P<what>.*?) - at `\$(?P<place>[^`]*)`", re.DOTALL)
_PART = re.compile(r"\.(?P<table>[A-Za-z_]\w*)|\[(?P<index>\d+|\.\.\.)\]")

Dialect = Literal["ort", "trt"]
Count = Annotated[int, Meta(ge=1)]
Words = tuple[str, ...]


class ModelTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One ``[[model]]``. ``model`` is what ``powertrain export`` takes, a path counted from the pipeline file.

    What is None is the recipe's, or the pipeline's for ``precisions`` and ``dialects``; ``targets`` None are all.
    ``max_kl`` is in nats per token; ``quality = false`` measures nothing.
    """

    model: str
    name: str | None = None
    revision: str = "main"
    precisions: Words | None = None
    dialects: tuple[Dialect, ...] | None = None
    targets: Words | None = None
    served_names: Words | None = None
    license: str | None = None
    block: int | None = None
    kv_cache: Literal["float", "int8"] | None = None
    max_model_len: Count | None = None
    max_kl: float | None = None
    quality: bool = True
    chat_template: str | None = None


class TargetTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One ``[[target]]``: a GPU such as ``sm89``, or ``current``, and the options of ``powertrain engine``."""

    name: str
    library: Literal["tensorrt", "tensorrt-rtx"] | None = None
    max_slots: Count = DEFAULT_SLOTS
    max_model_len: Count | None = None
    prefill_tokens: Count = 512
    optimization_level: Annotated[int, Meta(ge=0, le=5)] = 3
    workspace_mib: Annotated[int, Meta(ge=0)] = 0
    hardware_compatibility: Literal["none", "ampere_plus", "same_compute_capability"] = "none"


class Exclude(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One ``[[exclude]]``: artifacts that have all these values are not built."""

    model: str | None = None
    precision: str | None = None
    dialect: Dialect | None = None
    target: str | None = None


class Include(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One ``[[include]]``: artifacts that are built besides the product. A target brings the ``trt`` graph along."""

    model: str
    precision: str
    dialect: Dialect = "ort"
    target: str | None = None


class GateTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One ``[[gate]]``: what the packages that have these values must measure up to, and with ``target`` their plans.

    A bound is a number or an expression of ``gates``. ``unmeasured`` is what becomes of one that cannot be asked.
    """

    model: str | None = None
    precision: str | None = None
    target: str | None = None
    max_kl: float | str | None = None
    max_size: float | str | None = None
    max_perplexity: float | str | None = None
    max_bits_per_byte: float | str | None = None
    min_accuracy: float | str | None = None
    min_tokens_per_s: float | str | None = None
    unmeasured: Literal["fail", "report"] = "fail"


class Pipeline(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The whole file. ``output`` is the folder of packages and ``cache`` the shared store, counted from the file.

    ``memory_mib`` bounds what the steps that run together take, ``jobs`` how many they are; None: the machine says.
    ``evaluate`` and ``benchmark`` measure every package; a gate has measured what it asks for in any case.
    """

    model: tuple[ModelTable, ...]
    target: tuple[TargetTable, ...] = ()
    exclude: tuple[Exclude, ...] = ()
    include: tuple[Include, ...] = ()
    gate: tuple[GateTable, ...] = ()
    precisions: Words = ("int8",)
    dialects: tuple[Dialect, ...] | None = None
    output: str | None = None
    cache: str | None = None
    memory_mib: Count | None = None
    jobs: Count | None = None
    self_test: bool = True
    evaluate: bool = False
    benchmark: bool = False


_TABLES: dict[str, type[msgspec.Struct]] = {
    "": Pipeline,
    "model": ModelTable,
    "target": TargetTable,
    "exclude": Exclude,
    "include": Include,
    "gate": GateTable,
}


def load_pipeline(path: Path) -> Pipeline:
    """Read a pipeline file. Raises PipelineError naming file, table and key."""
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise PipelineError(f"{path}: larger than {_MAX_BYTES} bytes; this is not a pipeline")
        pipeline = msgspec.toml.decode(path.read_bytes(), type=Pipeline)
    except OSError as error:
        raise PipelineError(
            f"{path}: cannot be read ({error.strerror}); give a file like docs/pipeline.md's"
        ) from error
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise PipelineError(f"{path}: {_explained(str(error))}; see docs/pipeline.md") from error
    if not pipeline.model:
        raise PipelineError(f"{path}: there is no [[model]]; name at least one; see docs/pipeline.md")
    return pipeline


def _explained(message: str) -> str:
    """msgspec's message with its JSON path as TOML's table and key, and a near miss named."""
    if unknown := _UNKNOWN.fullmatch(message):
        table, _, where = _place(unknown["place"] or "")
        known = _TABLES[table].__struct_fields__
        return f"{where} has no key {unknown['key']!r}.{did_you_mean(unknown['key'], known)} It has {', '.join(known)}"
    if placed := _PLACED.fullmatch(message):
        _, key, where = _place(placed["place"])
        return f"{where}{f', key {key!r}' if key else ''}: {placed['what']}"
    return message


def _place(path: str) -> tuple[str, str, str]:
    """(table, key, words for the table) of ``.model[1].block``; table and key are empty where the path names none."""
    table, key, index = "", "", ""
    for part in _PART.finditer(path):
        if part["index"] is not None:
            index = index or part["index"]
        elif not table and part["table"] in _TABLES:
            table = part["table"]
        else:
            key = key or part["table"]
    if not table:
        return "", key, "the top of the file"
    number = f" number {int(index) + 1}" if index.isdigit() else ""
    return table, key, f"[[{table}]]{number}"
