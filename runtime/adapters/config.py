"""``adapter_config.json`` of PEFT: what it asks for, read strictly. Knows no tensors.

Every way in which PEFT's LoRA is more than ``W + scale * B A`` is refused by its key: an adapter that is applied
partly gives answers that nobody trained.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from runtime.errors import AdapterError
from runtime.package.adapter_room import MAX_RANK

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"

_REFUSED = {
    "use_dora": "DoRA scales whole columns anew",
    "modules_to_save": "it brings whole layers of its own",
    "lora_bias": "it trained biases",
    "trainable_token_indices": "it trained rows of the embedding",
    "target_parameters": "it changes parameters that are no layers",
    "layer_replication": "it repeats layers",
    "megatron_config": "it is for Megatron's layers",
    "use_qalora": "QA-LoRA groups its inputs",
    "alora_invocation_tokens": "it is to act from a token on, not everywhere",
    "use_bdlora": "its matrices are in blocks",
}
_CHANGES_BASE = ("pissa", "olora", "loftq", "corda", "lora_ga")
"""Initializations that take something out of the base's weights, which must be the changed ones then."""


class _Config(msgspec.Struct, frozen=True):
    """The keys that decide numbers; all others are looked at by name only."""

    peft_type: str = ""
    r: int = 8
    lora_alpha: float = 8
    use_rslora: bool = False
    bias: str = "none"
    target_modules: list[str] | str | None = None
    rank_pattern: dict[str, int] = {}
    alpha_pattern: dict[str, float] = {}
    init_lora_weights: bool | str | None = True


@dataclass(frozen=True, slots=True)
class PeftConfig:
    """Ranks and scales by module. ``targets`` are the modules that the file names; empty where it gives a pattern."""

    rank: int
    alpha: float
    is_rank_stabilized: bool
    targets: tuple[str, ...] = ()
    ranks: Mapping[str, int] = field(default_factory=dict)
    alphas: Mapping[str, float] = field(default_factory=dict)

    def rank_of(self, module: str) -> int:
        """The rank of a module such as ``model.layers.0.self_attn.q_proj``."""
        return self.ranks.get(_matching(self.ranks, module), self.rank)

    def scale_of(self, module: str) -> float:
        """What multiplies ``B A``: alpha over the rank, or over its root (rsLoRA, Kalajdzievski 2023)."""
        rank, alpha = self.rank_of(module), self.alphas.get(_matching(self.alphas, module), self.alpha)
        return alpha / (math.sqrt(rank) if self.is_rank_stabilized else rank)


def adapter_files(folder: Path) -> tuple[Path, Path]:
    """The files that an adapter consists of, there or not."""
    return folder / CONFIG_FILE, folder / WEIGHTS_FILE


def read_config(data: bytes, name: str) -> PeftConfig:
    """The config of the adapter ``name``. Raises AdapterError naming the key that nothing here applies."""
    try:
        raw: dict[str, Any] = msgspec.json.decode(data, type=dict[str, Any])
        config = msgspec.convert(raw, _Config)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise AdapterError(f"{name}: {CONFIG_FILE} is not readable ({str(error)[:200]})") from error
    if config.peft_type.upper() != "LORA":
        raise AdapterError(f"{name}: peft_type is {config.peft_type[:40]!r}; LORA is applied")
    for key, why in _REFUSED.items():
        if raw.get(key):
            raise AdapterError(f"{name}: {key} is set: {why}, which is not applied here; train a plain LoRA")
    if config.bias != "none":
        raise AdapterError(f"{name}: bias is {config.bias[:40]!r}; only 'none' is applied, train without biases")
    start = config.init_lora_weights
    if isinstance(start, str) and start.lower().startswith(_CHANGES_BASE):
        raise AdapterError(
            f"{name}: init_lora_weights is {start[:40]!r}, so it belongs to changed weights of the base; save it with "
            "PEFT's path_initial_model_for_weight_conversion, which makes a plain LoRA of it"
        )
    _check_numbers(config, name)
    targets = config.target_modules if isinstance(config.target_modules, list) else []
    return PeftConfig(
        rank=config.r,
        alpha=config.lora_alpha,
        is_rank_stabilized=config.use_rslora,
        targets=tuple(targets),
        ranks=config.rank_pattern,
        alphas=config.alpha_pattern,
    )


def _check_numbers(config: _Config, name: str) -> None:
    for key in (*config.rank_pattern, *config.alpha_pattern):
        if not key.removeprefix("^").replace(".", "").replace("_", "").replace("-", "").isalnum():
            raise AdapterError(f"{name}: the pattern {key[:80]!r} is an expression; name modules, or their endings")
    for rank in (config.r, *config.rank_pattern.values()):
        if not 1 <= rank <= MAX_RANK:
            raise AdapterError(f"{name}: rank {rank} is not between 1 and {MAX_RANK}")
    for alpha in (config.lora_alpha, *config.alpha_pattern.values()):
        if not math.isfinite(alpha):
            raise AdapterError(f"{name}: lora_alpha {alpha} is not finite")


def _matching(patterns: Mapping[str, object], module: str) -> str:
    """The first pattern that names a module or ends it at a dot, as PEFT chooses; empty for none. ``^``: all of it."""
    for pattern in patterns:
        plain = pattern.removeprefix("^")
        if module == plain or (plain == pattern and module.endswith("." + plain)):
            return pattern
    return ""
