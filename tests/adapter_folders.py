"""Folders with PEFT adapters of small random matrices, as PEFT writes them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file

Matrix = npt.NDArray[np.float32]
Pair = tuple[Matrix, Matrix]

MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "qkv_proj", "gate_up_proj")


def write_adapter(folder: Path, pairs: Mapping[str, Pair], **config: Any) -> Path:
    """An adapter's folder. ``pairs`` maps modules such as ``model.layers.0.mlp.up_proj`` to (A [r, in], B [out, r])."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {}
    for module, (a, b) in pairs.items():
        tensors[f"base_model.model.{module}.lora_A.weight"] = a
        tensors[f"base_model.model.{module}.lora_B.weight"] = b
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    rank = next(len(a) for a, _ in pairs.values())
    targets = sorted({module.rpartition(".")[2] for module in pairs})
    said = {"peft_type": "LORA", "r": rank, "lora_alpha": rank, "target_modules": targets, "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps(said | config))
    return folder


def random_pairs(shapes: Mapping[str, tuple[int, ...]], rank: int, seed: int, size: float = 0.1) -> dict[str, Pair]:
    """A pair for every matrix of ``shapes``, [out, in] by module."""
    random = np.random.default_rng(seed)

    def drawn(*shape: int) -> Matrix:
        return random.standard_normal(shape, np.float32) * np.float32(size)

    return {module: (drawn(rank, shape[1]), drawn(shape[0], rank)) for module, shape in shapes.items()}


def modules_of(tensors: Mapping[str, Matrix]) -> dict[str, tuple[int, ...]]:
    """The modules that adapters may change, of a checkpoint's tensors by transformers' names."""
    ends = tuple(f".{module}.weight" for module in MODULES)
    return {name.removesuffix(".weight"): value.shape for name, value in tensors.items() if name.endswith(ends)}
