"""A Hugging Face folder as a Checkpoint: ``config.json``, safetensors (one file or shards), tokenizer files.

Nothing else in the folder is opened: no pickles, no code. Headers are validated by the ``safetensors`` library; shard
names are plain file names inside the folder.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from export.checkpoint.checkpoint import TextFiles
from export.checkpoint.lazy_tensor import F32, LazyTensor
from export.checkpoint.spec import DecoderSpec
from export.errors import SourceError, UnsupportedError
from export.source.hf.folder_file import inside, inside_if_there
from export.source.hf.json_object import read_json_object
from export.source.hf.quantized import layout_from_config, packed_matrix
from export.source.hf.safetensors_file import FLOAT_KINDS, StoredArray, open_file, stored_array
from export.source.hf.spec import spec_from_config
from export.source.hf.text import text_files_from_folder

CONFIG_FILE = "config.json"
SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"

_MAX_SHARDS = 10_000
_EMBEDDING = "embed_tokens.weight"
_LAYER_NAMES = {
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "o": "self_attn.o_proj",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
    "q_norm": "self_attn.q_norm",
    "k_norm": "self_attn.k_norm",
    "attention_norm": "input_layernorm",
    "mlp_norm": "post_attention_layernorm",
}
_OTHER_NAMES = {"granitemoehybrid": {"down": "shared_mlp.output_linear"}}
_FUSED_NAMES = {
    "granitemoehybrid": dict.fromkeys(("gate", "up"), "shared_mlp.input_linear"),
    "phi3": dict.fromkeys(("q", "k", "v"), "self_attn.qkv_proj") | dict.fromkeys(("gate", "up"), "mlp.gate_up_proj"),
}
_SANDWICH_NAMES = {"mlp_norm": "pre_feedforward_layernorm"}
_AFTER_NAMES = {"attention_post_norm": "post_attention_layernorm", "mlp_post_norm": "post_feedforward_layernorm"}


class HfCheckpoint:
    """The Checkpoint protocol over a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        config = read_json_object(inside(folder, CONFIG_FILE))
        self._spec, self._packing = spec_from_config(config), layout_from_config(config)
        self._files = _shards(folder)
        self._place = _tensor_places(self._files)
        roots = [key.removesuffix(_EMBEDDING) for key in self._place if key.endswith("." + _EMBEDDING)]
        if len(roots) != 1:
            raise SourceError(f"{folder.name}: {len(roots)} tensors end in {_EMBEDDING!r}, one is expected")
        self._root = roots[0]

    @property
    def spec(self) -> DecoderSpec:
        """The decoder that the config describes."""
        return self._spec

    def files(self) -> list[Path]:
        """Every file that the checkpoint's content depends on, in a fixed order."""
        texts = (
            "config.json",
            "tokenizer.json",
            "tokenizer_config.json",
            "generation_config.json",
            "chat_template.jinja",
            "chat_template.json",
        )
        present = (inside_if_there(self.folder, name) for name in texts)
        return [*(path for path in present if path is not None), *(self.folder / name for name in sorted(self._files))]

    def tensor(self, name: str) -> LazyTensor:
        """A tensor by canonical name. Raises SourceError if the folder lacks it."""
        match name:
            case "embedding":
                return self._read(self._root + _EMBEDDING)
            case "final_norm":
                return self._norm(self._root + "norm.weight")
            case "head":
                nested = self._root.removesuffix("model.") + "lm_head"
                parts = (nested + ".weight", nested + ".qweight")
                return self._read(("lm_head" if self._place.keys().isdisjoint(parts) else nested) + ".weight")
        match = re.fullmatch(r"layers\.(\d+)\.(\w+?)(_bias)?", name)
        if match is None:
            raise UnsupportedError(f"no tensor {name!r} in Hugging Face folders")
        prefix, role, suffix = f"{self._root}layers.{match[1]}.", match[2], ".bias" if match[3] else ".weight"
        fused = _FUSED_NAMES.get(self._spec.architecture, {})
        if role in fused:
            return self._part_of_fused(prefix + fused[role] + suffix, role)
        if role.endswith("norm"):
            return self._norm(prefix + self._norm_name(role) + suffix)
        names = _LAYER_NAMES | _OTHER_NAMES.get(self._spec.architecture, {})
        return self._read(prefix + names[role] + suffix)

    def text_files(self) -> TextFiles:
        """Tokenizer, template and stop tokens."""
        return text_files_from_folder(self.folder, self._spec.vocab_size)

    def _norm_name(self, role: str) -> str:
        if role in _AFTER_NAMES:
            return _AFTER_NAMES[role]
        if self._spec.norm_placement == "sandwich" and role in _SANDWICH_NAMES:
            return _SANDWICH_NAMES[role]
        return _LAYER_NAMES[role]

    def _norm(self, key: str) -> LazyTensor:
        """A norm's weight; Gemma stores it less one."""
        tensor = self._read(key)
        return tensor.map(lambda band: band + 1.0) if self._spec.architecture.startswith("gemma") else tensor

    def _part_of_fused(self, key: str, role: str) -> LazyTensor:
        spec, tensor = self._spec, self._read(key)
        if role in {"gate", "up"}:
            return tensor.slice_rows(0 if role == "gate" else spec.intermediate_size, spec.intermediate_size)
        starts = {"q": 0, "k": spec.q_size, "v": spec.q_size + spec.kv_size}
        return tensor.slice_rows(starts[role], spec.q_size if role == "q" else spec.kv_size)

    def _read(self, key: str) -> LazyTensor:
        stem = key.removesuffix(".weight")
        if self._packing is not None and stem != key and stem + ".qweight" in self._place:
            return packed_matrix(stem, self._packing, self._stored)
        stored = self._stored(key)
        if stored is None:
            raise SourceError(f"{self.folder.name}: tensor {key!r} is missing; the checkpoint is incomplete")
        if stored.kind not in FLOAT_KINDS:
            raise UnsupportedError(
                f"{self.folder.name}: tensor {key!r} has type {stored.kind}; {', '.join(sorted(FLOAT_KINDS))} are read"
            )

        def read(start: int, stop: int) -> F32:
            return np.asarray(stored.read(slice(start, stop)), dtype=np.float32)

        return LazyTensor(key, stored.shape, read)

    def _stored(self, key: str) -> StoredArray | None:
        return stored_array(self._files[self._place[key]], key) if key in self._place else None


def _tensor_places(files: dict[str, Path]) -> dict[str, str]:
    """Tensor -> the file that holds it."""
    place: dict[str, str] = {}
    for name, path in files.items():
        with open_file(path) as file:
            place |= dict.fromkeys(file.keys(), name)
    return place


def _shards(folder: Path) -> dict[str, Path]:
    """File name -> path of every safetensors file that the checkpoint consists of."""
    if (folder / SINGLE_FILE).is_file():
        return {SINGLE_FILE: inside(folder, SINGLE_FILE)}
    if not (folder / INDEX_FILE).is_file():
        raise SourceError(f"{folder}: neither {SINGLE_FILE} nor {INDEX_FILE} is there; other weight files are not read")
    weight_map = read_json_object(inside(folder, INDEX_FILE)).object("weight_map")
    names = set(weight_map.values.values()) if weight_map is not None else set()
    if not names or len(names) > _MAX_SHARDS or not all(isinstance(name, str) for name in names):
        raise SourceError(f"{INDEX_FILE}: 'weight_map' must map tensors to 1 to {_MAX_SHARDS} file names")
    return {name: inside(folder, name) for name in sorted(names)}
