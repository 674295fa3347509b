"""The adapters that requests may name as their ``model``: which there are, loading one and taking one out.

A request keeps the adapter that it began with, so taking one out ends none. Knows folders and the package's room; knows
no engine and no request.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from runtime.adapter import Adapter
from runtime.adapters.config import CONFIG_FILE
from runtime.adapters.factors import Factors
from runtime.adapters.fitted import fitted
from runtime.adapters.peft import AdapterCheck, read_adapter
from runtime.errors import AdapterError, RequestError
from runtime.package.adapter_room import AdapterRoom

from api.errors import ForbiddenError, NotFoundError, SettingsError
from api.server_settings import Settings

_MAX_NAME_CHARS = 256
_FILE_PER_ROOM, _HEADER_BYTES = 8, 16 * 2**20
"""A file may be larger than what the room takes: in float64, or of a rank that is too large, which is told as such."""
_LOG = logging.getLogger("powertrain.adapters")


@dataclass(frozen=True, slots=True)
class LoadedAdapter:
    """An adapter that may be asked for, and when it was loaded, in seconds since 1970."""

    adapter: Adapter
    created_unix: int


class Adapters:
    """By name, of one model.

    ``room`` and ``factors`` are the package's, None for none; ``taken`` are names of the model itself. ``check`` says
    whether an adapter may be served, None: all may.
    """

    def __init__(
        self,
        room: AdapterRoom | None = None,
        taken: Collection[str] = (),
        most: int = 0,
        factors: Factors | None = None,
        check: AdapterCheck | None = None,
    ) -> None:
        self._room, self._taken, self._most, self._factors = room, frozenset(taken), most, factors
        self._check_files = check
        self._loaded: dict[str, LoadedAdapter] = {}

    @property
    def loaded(self) -> dict[str, LoadedAdapter]:
        """Those that there are, in the order of loading."""
        return dict(self._loaded)

    def require(self, name: str) -> Adapter:
        """The adapter ``name``. Raises NotFoundError where it has been taken out meanwhile."""
        found = self._loaded.get(name)
        if found is None:
            raise NotFoundError(f"The model `{name[:_MAX_NAME_CHARS]}` does not exist.", "model")
        return found.adapter

    def add(self, name: str, folder: Path) -> None:
        """Read a folder's adapter; takes as long as its file is large, so not on an event loop, and one at a time.

        Raises AdapterError, and TrustError for one that may not be served.
        """
        self._check(name)
        if self._room is None:
            raise AdapterError(
                "the package has no room for adapters: export it with --lora-rank, or with --adapter to merge one"
            )
        most = _FILE_PER_ROOM * self._room.adapter_bytes + _HEADER_BYTES
        adapter = fitted(read_adapter(folder, name, most, self._check_files), self._room, self._factors)
        self._loaded[name] = LoadedAdapter(adapter, int(time.time()))
        _LOG.info("adapter %s loaded: sha256 %s", name, adapter.digest[:12])

    def unload(self, name: str) -> None:
        """Take an adapter out; requests that have it keep it. Raises NotFoundError for a name that is not there."""
        if self._loaded.pop(name, None) is None:
            raise NotFoundError(f"The lora adapter '{name[:_MAX_NAME_CHARS]}' cannot be found.", "lora_name")
        _LOG.info("adapter %s taken out", name)

    def _check(self, name: str) -> None:
        if not name or len(name) > _MAX_NAME_CHARS or not name.isprintable():
            raise AdapterError(f"an adapter's name has 1 to {_MAX_NAME_CHARS} printable characters")
        if name in self._taken:
            raise AdapterError(f"the name {name!r} is the model's own; give the adapter another")
        if name in self._loaded:
            raise AdapterError(f"The lora adapter '{name}' has already been loaded.")
        if len(self._loaded) >= self._most:
            raise AdapterError(f"{self._most} adapters are loaded, which is max_loras; take one out first")


def adapters_from_settings(
    settings: Settings,
    room: AdapterRoom | None,
    taken: Collection[str],
    factors: Factors | None = None,
    check: AdapterCheck | None = None,
) -> Adapters:
    """What ``lora_modules`` and ``lora_source`` name, loaded. Raises AdapterError, TrustError or SettingsError."""
    adapters = Adapters(room, taken, settings.max_loras, factors, check)
    for name, folder in _wanted(settings):
        adapters.add(name, folder)
    return adapters


def adapter_folder(source: str | None, path: str) -> Path:
    """The folder below ``source`` that a client means. Raises RequestError for one elsewhere, without a word about this
    machine, and ForbiddenError where the operator named no ``source``."""
    if source is None:
        raise ForbiddenError("This server loads adapters from no folder: its operator has set no lora_source.")
    home = Path(source).expanduser().resolve()
    try:
        folder = (home / path).resolve()
    except (OSError, RuntimeError, ValueError) as error:  # a loop of links, or a zero byte
        raise RequestError("lora_path: this is no path", "lora_path") from error
    if folder == home or not folder.is_relative_to(home):
        raise RequestError("lora_path: it does not lie below the folder that this server loads from", "lora_path")
    return folder


def _wanted(settings: Settings) -> Iterator[tuple[str, Path]]:
    for module in settings.lora_modules:
        name, sign, path = module.partition("=")
        if not sign or not name or not path:
            raise SettingsError(f"lora_modules: {module!r} is not NAME=FOLDER")
        folder = Path(path).expanduser()
        if not folder.is_dir():
            raise SettingsError(f"lora_modules: there is no folder {path} for {name}")
        yield name, folder
    if settings.lora_source is not None:
        source = Path(settings.lora_source).expanduser()
        if not source.is_dir():
            raise SettingsError(f"lora_source: there is no folder {settings.lora_source}")
        for folder in sorted(source.iterdir()):
            if (folder / CONFIG_FILE).is_file():
                yield folder.name, folder
