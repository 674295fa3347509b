"""A GGUF file as a Checkpoint: canonical tensor names, Hugging Face's row order, text files from the metadata.

Knows GGUF's tensor names and how its converter rearranged rows. Parsing is ``file``'s, the spec is ``spec``'s.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import numpy.typing as npt

from export.checkpoint.checkpoint import TextFiles
from export.checkpoint.lazy_tensor import LazyTensor
from export.checkpoint.spec import DecoderSpec
from export.errors import SourceError, UnsupportedError
from export.source.gguf.file import GgufFile, read_gguf
from export.source.gguf.spec import spec_from_gguf
from export.source.gguf.tokenizer import text_files_from_gguf

_TOP_NAMES = {"embedding": "token_embd.weight", "final_norm": "output_norm.weight", "head": "output.weight"}
_LAYER_NAMES = {
    "q": "attn_q",
    "k": "attn_k",
    "v": "attn_v",
    "o": "attn_output",
    "gate": "ffn_gate",
    "up": "ffn_up",
    "down": "ffn_down",
    "q_norm": "attn_q_norm",
    "k_norm": "attn_k_norm",
    "attention_norm": "attn_norm",
    "mlp_norm": "ffn_norm",
    "attention_post_norm": "post_attention_norm",
    "mlp_post_norm": "post_ffw_norm",
}
# The converter stores q and k rows of these in the order of interleaved rope: pairs (0, 1), (2, 3), ...
_INTERLEAVED = frozenset({"llama", "granite", "smollm3"})
_FUSED = frozenset({"phi3"})


class GgufCheckpoint:
    """The Checkpoint protocol over a GGUF file."""

    def __init__(self, path: Path) -> None:
        self.file: GgufFile = read_gguf(path)
        self._spec = spec_from_gguf(self.file)

    @property
    def spec(self) -> DecoderSpec:
        """The decoder that the file holds."""
        return self._spec

    def tensor(self, name: str) -> LazyTensor:
        """A tensor by canonical name. Raises SourceError if the file lacks it."""
        if name in _TOP_NAMES:
            return self.file.tensor(_TOP_NAMES[name])
        match = re.fullmatch(r"layers\.(\d+)\.(\w+?)(_bias)?", name)
        if match is None:
            raise UnsupportedError(f"no tensor {name!r} in GGUF files")
        layer, role, suffix = int(match[1]), match[2], ".bias" if match[3] else ".weight"
        if self._spec.architecture in _FUSED and role in {"q", "k", "v", "gate", "up"}:
            return self._part_of_fused(layer, role, suffix)
        tensor = self.file.tensor(f"blk.{layer}.{_LAYER_NAMES[role]}{suffix}")
        if self._spec.architecture in _INTERLEAVED and role in {"q", "k"}:
            if tensor.shape[0] % self._spec.head_dim:
                raise SourceError(
                    f"tensor {tensor.name!r} has {tensor.shape[0]} rows, not heads of {self._spec.head_dim}"
                )
            return tensor.take_rows(halves_from_interleaved(tensor.shape[0], self._spec.head_dim))
        return tensor

    def text_files(self) -> TextFiles:
        """Tokenizer, template and stop tokens out of the metadata."""
        return text_files_from_gguf(self.file.path.name, self.file.metadata)

    def _part_of_fused(self, layer: int, role: str, suffix: str) -> LazyTensor:
        spec = self._spec
        if role in {"gate", "up"}:
            tensor = self.file.tensor(f"blk.{layer}.ffn_up{suffix}")
            return tensor.slice_rows(0 if role == "gate" else spec.intermediate_size, spec.intermediate_size)
        first, count = {
            "q": (0, spec.q_size),
            "k": (spec.q_size, spec.kv_size),
            "v": (spec.q_size + spec.kv_size, spec.kv_size),
        }[role]
        return self.file.tensor(f"blk.{layer}.attn_qkv{suffix}").slice_rows(first, count)


def halves_from_interleaved(num_rows: int, head_dim: int) -> npt.NDArray[np.int64]:
    """Index [num_rows] that undoes the converter's permutation, head by head.

    Row j of the first half of a head lies at 2j in the file, row j of the second half at 2j + 1.
    """
    heads = np.arange(num_rows, dtype=np.int64).reshape(-1, head_dim // 2, 2)
    return heads.swapaxes(1, 2).reshape(-1)
