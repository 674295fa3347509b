"""The folder in which a package is built, by whichever route: fresh, beside its goal, and gone unless it was renamed.

Owns what every route puts there beside graphs, and what a manifest records of the files. Knows neither recipes nor
weights.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from runtime.package import manifest as package
from runtime.package.generation_config import SamplingDefaults
from runtime.package.package_file import FileInfo, file_info
from runtime.unwritten import size_text, why_unwritten

from export.checkpoint.checkpoint import TextFiles
from export.errors import ExportError
from export.folder_lock import exclusive_folder
from export.graph.ort.dialect import OPSET
from export.graph.selection import write_selection_graph

_SELECTION_FOLDER = "selection"


@contextmanager
def workspace(root: Path) -> Iterator[Path]:
    """A fresh folder ``.NAME.partial`` beside ``root``, this build's alone, gone afterwards unless renamed."""
    with exclusive_folder(root.parent / f".{root.name}.partial", f"building {root.name}") as partial:
        try:
            yield partial
        except OSError as error:
            raise ExportError(f"cannot write {root}: {why_unwritten(error, root)}") from error


def check_space(folder: Path, wanted: int) -> None:
    """Raise ExportError unless ``wanted`` bytes are free in ``folder``."""
    free = shutil.disk_usage(folder).free
    if free < wanted:
        raise ExportError(
            f"{size_text(wanted)} are needed in {folder.parent} and {size_text(free)} are free; "
            "free some space or choose another folder"
        )


def write_text_files(partial: Path, text: TextFiles, generation: SamplingDefaults | None = None) -> None:
    """tokenizer.json, generation_config.json and, if the model has one, chat_template.jinja.

    Values of ``generation`` go before the checkpoint's own.
    """
    (partial / package.TOKENIZER_FILE).write_text(text.tokenizer_json, encoding="utf-8")
    if text.chat_template is not None:
        (partial / package.CHAT_TEMPLATE_FILE).write_text(text.chat_template, encoding="utf-8")
    chosen = {} if generation is None else generation.given()
    values = {**text.generation, **chosen, "eos_token_id": list(text.stop_token_ids)}
    (partial / package.GENERATION_CONFIG_FILE).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def write_head(partial: Path, vocab_size: int) -> package.SelectionInfo:
    """Write a selection head that every runtime of a GPU takes into a package folder."""
    path = write_selection_graph(partial / _SELECTION_FOLDER, vocab_size, OPSET, has_mask=True)
    if not (weights := path.with_name(path.name + ".data")).stat().st_size:
        weights.unlink()  # a head has constants of a few bytes only, which lie in the graph
    return package.SelectionInfo(path.relative_to(partial).as_posix())


def recorded_files(partial: Path) -> dict[str, FileInfo]:
    """Size and digest of every file below ``partial``, for the manifest."""
    paths = sorted(path for path in partial.rglob("*") if path.is_file())
    return {path.relative_to(partial).as_posix(): file_info(path) for path in paths}
