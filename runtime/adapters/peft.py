"""A PEFT adapter's folder: ``adapter_config.json`` and ``adapter_model.safetensors`` -> matrices by layer and role.

Nothing else in the folder is opened, and no link out of it is followed: no pickles, no code. Fused modules (Phi-3's
``qkv_proj``) are taken apart. Knows no graph.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from runtime.adapter import Matrix
from runtime.adapters.config import CONFIG_FILE, WEIGHTS_FILE, PeftConfig, read_config
from runtime.adapters.low_rank import LowRank, PeftAdapter
from runtime.errors import AdapterError
from runtime.package.package_file import hashed, holds, read_at_most

_CONFIG_MAX_BYTES = 2**20
_FLOATS = frozenset({"F64", "F32", "F16", "BF16"})
_ROLES = {
    "self_attn.q_proj": ("q",),
    "self_attn.k_proj": ("k",),
    "self_attn.v_proj": ("v",),
    "self_attn.o_proj": ("o",),
    "self_attn.qkv_proj": ("q", "k", "v"),
    "mlp.gate_proj": ("gate",),
    "mlp.up_proj": ("up",),
    "mlp.down_proj": ("down",),
    "mlp.gate_up_proj": ("gate", "up"),
    "shared_mlp.input_linear": ("gate", "up"),
    "shared_mlp.output_linear": ("down",),
}
_KEY = re.compile(
    r"(?:base_model\.model\.)?(?P<module>[\w.]*?layers\.(?P<layer>\d{1,4})\.(?P<name>\w+\.\w+))"
    r"\.lora_(?P<side>[AB])(?:\.default)?\.weight",
    re.ASCII,
)


AdapterCheck = Callable[[Path, Mapping[str, str]], None]
"""Is given an adapter's folder and its files' sha256 by name, before they are used. Raises PowertrainError."""


def read_adapter(
    folder: Path, name: str | None = None, max_bytes: int | None = None, check: AdapterCheck | None = None
) -> PeftAdapter:
    """Read a folder's adapter, called ``name`` or as the folder; of at most ``max_bytes`` of weights, if given.

    Raises AdapterError, and what ``check`` raises; no text holds a path.
    """
    name = name or folder.resolve().name
    if not os.path.isdir(folder):  # noqa: PTH112 - Path.is_dir raises for a name that is too long
        raise AdapterError(f"{name}: there is no such folder of an adapter")
    config_path, weights_path = _plain(folder, CONFIG_FILE, name), _plain(folder, WEIGHTS_FILE, name)
    try:
        if (data := read_at_most(config_path, _CONFIG_MAX_BYTES)) is None:
            raise AdapterError(f"{name}: {CONFIG_FILE} is larger than {_CONFIG_MAX_BYTES} bytes")
        if max_bytes is not None and (size := weights_path.stat().st_size) > max_bytes:
            raise AdapterError(f"{name}: {WEIGHTS_FILE} has {size:,} bytes, the model's adapters at most {max_bytes:,}")
        found = {CONFIG_FILE: hashlib.sha256(data).hexdigest()}
        found[WEIGHTS_FILE], seal = hashed(weights_path)
        if check is not None:
            check(folder, found)
        config = read_config(data, name)
        sides = _read_sides(weights_path, config, name)
        if not holds(weights_path, seal):
            raise AdapterError(f"{name}: {WEIGHTS_FILE} changed while it was read; try again")
    except (OSError, SafetensorError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)[:200]
        raise AdapterError(f"{name}: {WEIGHTS_FILE} or {CONFIG_FILE} is not usable ({reason})") from error
    digest = hashlib.sha256(f"{found[CONFIG_FILE]} {found[WEIGHTS_FILE]}\n".encode()).hexdigest()
    return PeftAdapter(name, digest, _paired(sides, config, name))


def adapter_digests(folder: Path) -> dict[str, str]:
    """The sha256 of both files of a folder that ``read_adapter`` reads, by name. Raises AdapterError."""
    found: dict[str, str] = {}

    def keep(_folder: Path, digests: Mapping[str, str]) -> None:
        found.update(digests)

    read_adapter(folder, check=keep)
    return found


def _plain(folder: Path, name: str, adapter: str) -> Path:
    """A file of the folder, or of the blobs that a hub cache links to."""
    path, home = folder / name, folder.resolve()
    if not path.is_file():
        raise AdapterError(f"{adapter}: {name} is missing; an adapter has {CONFIG_FILE} and {WEIGHTS_FILE}")
    if path.resolve().parent not in {home, home.parent.parent / "blobs"}:
        raise AdapterError(f"{adapter}: {name} is a link out of the folder; copy the file into it")
    return path


_Module = tuple[str, int, tuple[str, ...]]
"""A module's name, its layer and the roles of its rows."""


def _read_sides(path: Path, config: PeftConfig, name: str) -> dict[_Module, dict[str, Matrix]]:
    sides: dict[_Module, dict[str, Matrix]] = {}
    with safe_open(path, framework="np") as file:
        for key in file.keys():  # noqa: SIM118 - no mapping
            match = _KEY.fullmatch(key)
            roles = None if match is None else _ROLES.get(match["name"])
            if match is None or roles is None:
                raise AdapterError(
                    f"{name}: tensor {key[:120]!r} is not applied here; adapters may change {', '.join(_ROLES)}"
                )
            part = file.get_slice(key)
            if part.get_dtype() not in _FLOATS or len(part.get_shape()) != 2:
                raise AdapterError(f"{name}: tensor {key[:120]!r} is no matrix of {', '.join(sorted(_FLOATS))}")
            rank = config.rank_of(match["module"])
            if part.get_shape()[0 if match["side"] == "A" else 1] != rank:
                raise AdapterError(
                    f"{name}: tensor {key[:120]!r} has shape {part.get_shape()}, {CONFIG_FILE} says rank {rank}"
                )
            matrix = np.ascontiguousarray(file.get_tensor(key), np.float32)
            if not np.isfinite(matrix).all():
                raise AdapterError(f"{name}: tensor {key[:120]!r} holds NaN or infinite values")
            both = sides.setdefault((match["module"], int(match["layer"]), roles), {})
            if match["side"] in both:
                raise AdapterError(f"{name}: tensor {key[:120]!r} is there under another spelling as well")
            both[match["side"]] = matrix
    return sides


def _scaled(matrix: Matrix, scale: float, what: str) -> Matrix:
    """``matrix`` times ``scale``. Raises AdapterError, which begins with ``what``, for a product that is not finite."""
    with np.errstate(over="ignore", invalid="ignore"):
        scaled = matrix * np.float32(scale)
    if not np.isfinite(scaled).all():
        raise AdapterError(f"{what} times lora_alpha's scale holds NaN or infinite values")
    return scaled


def _paired(
    sides: Mapping[_Module, Mapping[str, Matrix]], config: PeftConfig, name: str
) -> dict[tuple[int, tuple[str, ...]], LowRank]:
    changes: dict[tuple[int, tuple[str, ...]], LowRank] = {}
    changed: set[tuple[int, str]] = set()
    for (module, layer, roles), both in sides.items():
        if len(both) != 2:
            missing = "B" if "A" in both else "A"
            raise AdapterError(f"{name}: {module} has no lora_{missing}; the file is incomplete")
        if again := [role for role in roles if (layer, role) in changed]:
            raise AdapterError(f"{name}: {module[:120]!r} changes {again[0]} of layer {layer} a second time")
        changed.update((layer, role) for role in roles)
        changes[layer, roles] = LowRank(
            both["A"], _scaled(both["B"], config.scale_of(module), f"{name}: {module[:120]!r}")
        )
    ends = {module.rpartition(".")[2] for module, _, _ in sides} | {module for module, _, _ in sides}
    for target in config.targets:
        if target not in ends and not any(module.endswith("." + target) for module, _, _ in sides):
            raise AdapterError(f"{name}: target_modules names {target[:80]!r}, of which {WEIGHTS_FILE} has no tensor")
    if not changes:
        raise AdapterError(f"{name}: {WEIGHTS_FILE} holds no tensor")
    return changes
