"""What a source of weights offers to the rest of the room, whatever its file format."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

from export.checkpoint.lazy_tensor import LazyTensor
from export.checkpoint.spec import DecoderSpec, weight_shapes
from export.errors import SourceError


@dataclass(frozen=True, slots=True, kw_only=True)
class TextFiles:
    """The text side of a model, format-free.

    ``tokenizer_json`` is the ``tokenizers`` library's file. ``special_tokens`` maps ``bos_token``, ``eos_token``,
    ``unk_token`` and ``pad_token`` to their texts. ``stop_token_ids`` end a turn. ``generation`` are defaults that
    the model's makers recommend, by their Hugging Face names.
    """

    tokenizer_json: str
    chat_template: str | None
    special_tokens: dict[str, str]
    stop_token_ids: tuple[int, ...]
    generation: dict[str, Any] = field(default_factory=dict)


class Checkpoint(Protocol):
    """Weights under the canonical names of ``spec.weight_shapes``, and the text files."""

    @property
    def spec(self) -> DecoderSpec:
        """The decoder that these weights fill."""
        ...

    def tensor(self, name: str) -> LazyTensor:
        """The tensor of a canonical name, in this room's layout. Raises SourceError if the checkpoint lacks it."""
        ...

    def text_files(self) -> TextFiles:
        """Tokenizer, chat template and stop tokens."""
        ...


def check_shapes(checkpoint: Checkpoint) -> None:
    """Raise SourceError unless every tensor of the spec is there with exactly the spec's shape."""
    for name, shape in weight_shapes(checkpoint.spec).items():
        tensor = checkpoint.tensor(name)
        if tensor.shape != shape:
            raise SourceError(
                f"tensor {tensor.name!r} has shape {list(tensor.shape)}, the configuration implies {list(shape)}; "
                "the checkpoint contradicts itself"
            )
