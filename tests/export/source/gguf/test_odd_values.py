"""Values that a GGUF file may hold and no model has: each is one error, whatever its type."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf.constants import GGMLQuantizationType

from export.errors import SourceError, UnsupportedError
from export.source.gguf.file import GgufFile, read_gguf
from export.source.gguf.spec import spec_from_gguf
from export.source.gguf.spm_tokenizer import spm_tokenizer_json
from export.source.gguf.tokenizer import text_files_from_gguf
from tests.export.source.gguf.test_gguf import EXTRAS, write_gguf
from tests.export.tiny_models import VOCAB, tiny_config, tiny_tensors


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, GgufFile]:
    folder = tmp_path_factory.mktemp("odd")
    configs = {name: tiny_config(name) for name in ("llama", "granite", "phi3")}
    return {
        name: read_gguf(write_gguf(folder / name, config, tiny_tensors(config), EXTRAS[name], "llama"))
        for name, config in configs.items()
    }


def opened(file: GgufFile) -> None:
    text_files_from_gguf("t.gguf", file.metadata)
    spec_from_gguf(file)


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("granite", {"granite.logit_scale": 0.0}, "granite.logit_scale is 0.0, a number above 0"),
        ("granite", {"granite.logit_scale": 1e-20}, "logits scaled by 1e+20"),
        ("granite", {"granite.attention.scale": -0.1}, "attention scaled by -0.1"),
        ("granite", {"granite.embedding_scale": 0.0}, "embedding scaled by 0"),
        ("granite", {"granite.residual_scale": 0.0}, "residual scaled by 0"),
        ("llama", {"llama.rope.freq_base": -1.0}, "rope.freq_base is -1.0, a number above 0"),
        ("llama", {"llama.rope.freq_base": 1.0}, "a rope base of 1, it must be above 1"),
        ("llama", {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 0.0}, "factor is 0.0"),
        ("llama", {"llama.rope.scaling.type": ["linear"], "llama.rope.scaling.factor": 2.0}, "['linear'] is not read"),
        ("llama", {"llama.attention.key_length": 15, "llama.rope.dimension_count": 14}, "heads of 15 dimensions"),
        ("llama", {"llama.attention.head_count_kv": 3}, "4 heads cannot share 3 key heads"),
        ("llama", {"llama.attention.head_count": [4, 4]}, "head_count is [4, 4], a whole number"),
        ("llama", {"llama.rope.dimension_count": 18}, "heads of 16 cannot be rotated over 18 dimensions"),
        ("llama", {"general.architecture": ["llama"]}, "architecture ['llama'] is not read"),
        ("llama", {"tokenizer.ggml.model": ["llama"]}, "tokenizer model ['llama'] is not read"),
        ("llama", {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": ["x"]}, "pre-tokenizer ['x'] is not read"),
        ("llama", {"tokenizer.chat_template": ["x"]}, "chat_template is not text"),
        ("llama", {"tokenizer.ggml.token_type": ["3"] * VOCAB}, "token_type is not a number for each of the 96"),
        ("llama", {"tokenizer.ggml.token_type": [3]}, "token_type is not a number for each of the 96"),
        ("llama", {"tokenizer.ggml.scores": [float("nan")] * VOCAB}, "does not hold a number for each"),
        ("llama", {"tokenizer.ggml.bos_token_id": True}, "bos_token_id is True"),
        ("llama", {"tokenizer.ggml.unknown_token_id": 96}, "unknown_token_id is 96"),
        ("llama", {"tokenizer.ggml.add_bos_token": 1}, "add_bos_token is 1, true or false is needed"),
        ("llama", {"tokenizer.ggml.add_space_prefix": [True]}, "add_space_prefix is [True], true or false"),
    ],
)
def test_an_odd_value_is_one_clear_error(
    files: dict[str, GgufFile], name: str, changes: dict[str, Any], words: str
) -> None:
    file = replace(files[name], metadata=files[name].metadata | changes)
    with pytest.raises((SourceError, UnsupportedError)) as caught:
        opened(file)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (np.zeros(8, np.float32), "rope is scaled by 0"),
        (np.full(8, np.nan, np.float32), "'rope_freqs.weight' holds NaN"),
        (np.ones(7, np.float32), r"has shape \[7\], a rope over 16 dimensions needs \[8\]"),
        (np.ones((2, 4), np.float32), r"has shape \[2, 4\], a rope over 16 dimensions needs \[8\]"),
    ],
)
def test_a_table_of_rope_factors_must_fit_the_rope(
    table: np.ndarray[Any, np.dtype[np.float32]], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config("llama")
    tensors = tiny_tensors(config) | {"rope_freqs.weight": table}
    monkeypatch.setitem(write_gguf.__globals__["NAMES"], "rope_freqs", "rope_freqs")
    file = read_gguf(write_gguf(tmp_path / "t.gguf", config, tensors, {}))
    with pytest.raises(SourceError, match=words):
        spec_from_gguf(file)


def test_a_vector_in_blocks_is_refused(tmp_path: Path) -> None:
    """A norm as Q8_0: its rows would be single numbers, and a block holds 32."""
    writer = gguf.GGUFWriter(tmp_path / "t.gguf", "llama")
    writer.add_tensor("n", np.zeros(68, np.uint8), raw_shape=(68,), raw_dtype=GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(SourceError, match="vector 'n' in Q8_0; only matrices are stored in blocks"):
        read_gguf(tmp_path / "t.gguf")


class Counted(str):
    """A token that counts the characters that slices of it copy."""

    copied = 0
    __slots__ = ()

    def __getitem__(self, place: Any) -> str:
        piece = super().__getitem__(place)
        Counted.copied += len(piece)
        return piece


@pytest.fixture
def fresh_count() -> Iterator[None]:
    Counted.copied = 0
    yield
    Counted.copied = 0


@pytest.mark.usefixtures("fresh_count")
def test_the_work_for_merges_grows_as_the_vocabulary_does() -> None:
    """A token of a million characters would cost a million slices of half a million; it is never merged."""

    def copied(tokens: list[Counted], added: list[Counted]) -> int:
        before = Counted.copied
        values = {"tokenizer.ggml.scores": [0.0] * len(tokens)}
        spm_tokenizer_json("t", values, [*tokens], [{"content": token} for token in added])
        return Counted.copied - before

    long = Counted("x" * 10**6)
    assert copied([Counted("ab"), Counted("a"), Counted("b"), long], [long]) == 2
    piece = [Counted("y" * 512)]
    assert copied(piece, []) == 511 * 512
    with pytest.raises(SourceError, match="a piece of 513 characters, at most 512 are possible"):
        copied([Counted("y" * 513)], [])
