"""GGUF files: every tensor type, the converter's row order, and every way in which a header can lie."""

from __future__ import annotations

import struct
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from hypothesis import example, given, settings

from export.checkpoint.checkpoint import check_shapes
from export.errors import ExportError, SourceError, UnsupportedError
from export.source.gguf import checkpoint as gguf_checkpoint
from export.source.gguf.checkpoint import GgufCheckpoint, halves_from_interleaved
from export.source.gguf.file import SUPPORTED_TYPES, read_gguf
from export.source.hf.checkpoint import HfCheckpoint
from export.source.hf.json_object import JsonObject
from export.source.hf.spec import spec_from_config
from tests.export.damage import Damage, damage_within, refusing_layer
from tests.export.reference import reference_logits
from tests.export.tiny_models import VOCAB, Tensors, tiny_config, tiny_input_ids, tiny_tensors, write_tiny_folder

NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.qkv_proj": "attn_qkv",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.gate_up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
}
ONE_NORM, TWO_NORMS = {"post_attention_layernorm": "ffn_norm"}, {
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}  # fmt: skip


def gguf_name(name: str, kind: str) -> str:
    norms = TWO_NORMS if kind.startswith("gemma") or kind == "olmo2" else ONE_NORM
    stem, _, suffix = name.rpartition(".")
    if stem.startswith("model.layers."):
        _, _, layer, rest = stem.split(".", 3)
        return f"blk.{layer}.{(NAMES | norms)[rest]}.{suffix}"
    return f"{NAMES[stem]}.{suffix}"


def as_converted(name: str, array: np.ndarray[Any, Any], config: dict[str, Any]) -> np.ndarray[Any, Any]:
    """What llama.cpp's converter does to a tensor: interleaved rope rows, and Gemma's norms plus one."""
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    for projection, count in heads.items():
        if projection in name and config["model_type"] in {"llama", "mistral", "granite", "smollm3"}:
            rest = array.shape[1:]
            return array.reshape(count, 2, array.shape[0] // count // 2, *rest).swapaxes(1, 2).reshape(array.shape)
    return array + 1 if name.endswith("norm.weight") and config["model_type"].startswith("gemma") else array


TEMPLATE = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{{ eos_token }}{% endfor %}"


def add_tokenizer(writer: gguf.GGUFWriter, model: str) -> None:
    """A vocabulary as long as the tiny models' embedding, with every key that a converter writes, and a template."""
    words = [*map(chr, range(33, 33 + VOCAB - 4)), '!"']
    writer.add_tokenizer_model(model)
    writer.add_tokenizer_pre("llama-bpe")
    writer.add_token_list(["<unk>", "<s>", "</s>", *words])
    writer.add_token_types([2, 3, 3] + [1] * (VOCAB - 3))
    if model == "gpt2":
        writer.add_token_merges(['! "'])
    else:
        writer.add_token_scores([-float(index) for index in range(VOCAB)])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_add_bos_token(True)
    writer.add_chat_template(TEMPLATE)


def write_gguf(
    path: Path, config: dict[str, Any], tensors: Tensors, extra: dict[str, Any], tokenizer: str | None = None
) -> Path:
    kind = {"mistral": "llama", "gemma3_text": "gemma3"}.get(config["model_type"], config["model_type"])
    writer = gguf.GGUFWriter(path, kind)
    head_dim = config.get("head_dim", config["hidden_size"] // config["num_attention_heads"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(head_dim)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config.get("rope_theta", 10000.0))
    for key, value in extra.items():
        (writer.add_uint32 if isinstance(value, int) else writer.add_float32)(f"{kind}.{key}", value)
    if tokenizer is not None:
        add_tokenizer(writer, tokenizer)
    for name, array in tensors.items():
        writer.add_tensor(
            gguf_name(name, config["model_type"]), np.ascontiguousarray(as_converted(name, array, config))
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


EXTRAS: dict[str, dict[str, Any]] = {
    "llama": {},
    "llama-bias": {},
    "qwen2": {},
    "qwen3": {},
    "olmo2": {},
    "phi3": {},
    "granite": {"attention.scale": 0.2, "embedding_scale": 3.0, "residual_scale": 0.3, "logit_scale": 2.0},
    "gemma2": {"attention.sliding_window": 7, "attn_logit_softcapping": 5.0, "final_logit_softcapping": 3.0},
}


@pytest.mark.parametrize("name", EXTRAS)
def test_a_converted_file_computes_what_the_folder_does(name: str, tmp_path: Path) -> None:
    folder = HfCheckpoint(write_tiny_folder(tmp_path / "hf", name))
    config = tiny_config(name)
    file = GgufCheckpoint(write_gguf(tmp_path / "tiny.gguf", config, tiny_tensors(config), EXTRAS[name]))
    spec = folder.spec
    if name == "gemma2":  # GGUF scales by the head's size, this tiny config by another number
        assert file.spec.attention_scale == spec.head_dim**-0.5
        file._spec = spec
    assert file.spec.layers == spec.layers
    difference = reference_logits(file, tiny_input_ids()) - reference_logits(folder, tiny_input_ids())
    assert np.abs(difference).max() < 1e-5


@pytest.mark.parametrize("name", ["gemma3", "smollm3"])
def test_layers_that_differ_are_the_folder_s(name: str, tmp_path: Path) -> None:
    """GGUF states neither Gemma 3's windows and ropes per layer nor SmolLM3's layers without rope: they are known."""
    config = tiny_config(name) | {"num_hidden_layers": 8, "rope_theta": 5e5}
    del config["layer_types" if name == "gemma3" else "no_rope_layers"]
    extra = {"attention.sliding_window": 7} if name == "gemma3" else {}
    file = GgufCheckpoint(write_gguf(tmp_path / "t.gguf", config, tiny_tensors(config), extra))
    expected = spec_from_config(JsonObject("config.json", config))
    assert (file.spec.layers, file.spec.ropes) == (expected.layers, expected.ropes)
    assert (file.spec.norm_placement, file.spec.qk_norm) == (expected.norm_placement, expected.qk_norm)
    check_shapes(file)


def test_rows_leave_the_interleaved_order() -> None:
    """Two heads of six rows: halves (0 1 2 | 3 4 5) are stored as 0 3 1 4 2 5."""
    assert halves_from_interleaved(12, 6).tolist() == [0, 2, 4, 1, 3, 5, 6, 8, 10, 7, 9, 11]


@pytest.mark.parametrize("type_name", SUPPORTED_TYPES)
def test_dequantized_values_are_the_library_s(type_name: str, tmp_path: Path) -> None:
    """Bit by bit, also when rows are read in part: 133 rows of 512 columns of every type, more than a group."""
    kind = GGMLQuantizationType[type_name]
    block, size = GGML_QUANT_SIZES[kind]
    random = np.random.default_rng(3)
    if type_name == "F32":
        raw = random.standard_normal((133, 512)).astype(np.float32).view(np.uint8)
    else:
        raw = random.integers(0, 60, (133, 512 // block * size)).astype(np.uint8)  # small bytes: no float16 is infinite
    writer = gguf.GGUFWriter(tmp_path / "t.gguf", "llama")
    writer.add_tensor("t", raw if type_name != "F32" else raw.view(np.float32), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    expected = gguf.quants.dequantize(raw, kind)
    tensor = read_gguf(tmp_path / "t.gguf").tensor("t")
    assert tensor.shape == (133, 512)
    assert tensor.numpy().tobytes() == np.asarray(expected, np.float32).tobytes()
    assert tensor.read(2, 132).tobytes() == np.asarray(expected, np.float32)[2:132].tobytes()


def header(tensors: int, metadata: int, version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, metadata)


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def tensor_info(name: bytes, shape: tuple[int, ...], kind: int, offset: int) -> bytes:
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


HOSTILE: dict[str, tuple[bytes, type[ExportError], str]] = {
    "empty": (b"", SourceError, "empty"),
    "other format": (b"PK\x03\x04" + bytes(100), SourceError, "not a GGUF file"),
    "big endian or new": (header(0, 0, version=0x3000000), UnsupportedError, "version"),
    "2^63 tensors": (header(1 << 63, 0), SourceError, "9223372036854775808 tensors"),
    "10^6 keys": (header(0, 10**6), SourceError, "1000000 metadata keys"),
    "string beyond the end": (header(0, 1) + struct.pack("<Q", 900) + b"x", SourceError, "900 more bytes"),
    "string of 2^62": (header(0, 1) + struct.pack("<Q", 1 << 62), SourceError, "string of"),
    "array of 2^60": (header(0, 1) + text(b"k") + struct.pack("<IIQ", 9, 4, 1 << 60), SourceError, "array of"),
    "strings that cannot fit": (
        header(0, 1) + text(b"k") + struct.pack("<IIQ", 9, 8, 10**6), SourceError, "array of 1000000 strings"),
    "array of arrays": (header(0, 1) + text(b"k") + struct.pack("<IIQ", 9, 9, 1), SourceError, "unsupported type 9"),
    "unknown value type": (header(0, 1) + text(b"k") + struct.pack("<I", 99), SourceError, "unknown type 99"),
    "key twice": (header(0, 2) + (text(b"k") + struct.pack("<Ib", 1, 0)) * 2, SourceError, "'k' twice"),
    "alignment 3": (
        header(0, 1) + text(b"general.alignment") + struct.pack("<II", 4, 3), SourceError, "general.alignment 3"),
    "no dimensions": (header(1, 0) + text(b"t") + struct.pack("<I", 0), SourceError, "0 dimensions"),
    "zero size": (header(1, 0) + tensor_info(b"t", (0,), 0, 0), SourceError, "cannot fill"),
    "product past 2^64": (header(1, 0) + tensor_info(b"t", (1 << 40, 1 << 40), 0, 0), SourceError, "truncated"),
    "half a block": (header(1, 0) + tensor_info(b"t", (33,), 8, 0), SourceError, "blocks of 32"),
    "offset past the end": (header(1, 0) + tensor_info(b"t", (4,), 0, 1 << 40), SourceError, "truncated"),
    "offset near 2^64": (header(1, 0) + tensor_info(b"t", (4,), 0, (1 << 64) - 32), SourceError, "truncated"),
    "misaligned": (header(1, 0) + tensor_info(b"t", (4,), 0, 5) + bytes(999), SourceError, "misaligned"),
    "overlapping": (
        header(2, 0) + tensor_info(b"a", (64,), 0, 0) + tensor_info(b"b", (64,), 0, 32) + bytes(999),
        SourceError, "overlapping"),
    "tensor twice": (
        header(2, 0) + tensor_info(b"a", (4,), 0, 0) + tensor_info(b"a", (4,), 0, 32) + bytes(999),
        SourceError, "'a' twice"),
    "IQ2_XXS": (header(1, 0) + tensor_info(b"t", (256,), 16, 0), UnsupportedError, "F32, F16, BF16, Q4_0"),
    "type 250": (header(1, 0) + tensor_info(b"t", (256,), 250, 0), UnsupportedError, "number 250"),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_a_lying_header_is_one_clear_error(case: str, tmp_path: Path) -> None:
    data, error, words = HOSTILE[case]
    path = tmp_path / "bad.gguf"
    path.write_bytes(data)
    with pytest.raises(error) as caught:
        read_gguf(path)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def good_bytes(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    config = tiny_config("llama")
    path = tmp_path_factory.mktemp("g") / "t.gguf"
    return write_gguf(path, config, tiny_tensors(config), {}, tokenizer="gpt2").read_bytes()


def test_damaged_files_are_refused_or_read_never_worse(good_bytes: bytes, tmp_path: Path) -> None:
    """Bytes of the header changed, the file cut anywhere: an ExportError of one line, or tensors as stated.

    Every layer must have had files to refuse and files to hand on, else this would test the first one only.
    """
    path, refused = tmp_path / "fuzz.gguf", Counter[str]()
    path.write_bytes(good_bytes)
    assert refusing_layer(lambda: GgufCheckpoint(path)) == "none"
    data, template = read_gguf(path).tensor_data_start, good_bytes.index(b"endfor")
    sizes = (24, good_bytes.index(b"tokenizer.ggml.model"))  # between the counts and the tokenizer
    regions = [(0, data), sizes, (template - len(TEMPLATE) + 9, template + 9), (data, len(good_bytes))]

    def opened() -> GgufCheckpoint:
        file = read_gguf(path)
        refused["file"] -= 1
        assert file.tensors.keys() | file.metadata.keys()
        return GgufCheckpoint(path)

    @settings(max_examples=400, derandomize=True, deadline=None)
    @example(damage=Damage([(data + 2, 255), (data + 3, 255)], 1.0))
    @example(damage=Damage([(template, ord("x"))], 1.0))
    @given(damage=damage_within(*regions))
    def damaged(damage: Damage) -> None:
        path.write_bytes(damage.done_to(good_bytes))
        refused["file"] += 1
        refused[refusing_layer(opened)] += 1

    damaged()
    assert {layer for layer, count in refused.items() if count > 0} == {
        "file", "open", "shapes", "text", "text check", "values", "none"}  # fmt: skip


NUMBERS: list[Any] = [0, 1, -1, 3, 2**31, 2**63, 0.0, -1.0, 1e-300, float("nan"), float("inf"), True]
LISTS: list[Any] = [[], [1], ["x"], ["x"] * VOCAB, [float("nan")] * VOCAB]
ODD = [None, "", "x", b"\xff", *NUMBERS, *LISTS]


@pytest.mark.parametrize(
    ("name", "tokenizer"),
    [("granite", "gpt2"), ("phi3", "llama"), ("gemma2", "gpt2")],
)
def test_any_value_under_any_key_is_refused_or_read_never_worse(
    name: str, tokenizer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each key of a whole file, and each optional one, in turn with values of other types and beyond every bound."""
    config = tiny_config(name)
    path = write_gguf(tmp_path / "t.gguf", config, tiny_tensors(config), EXTRAS[name], tokenizer)
    good, refused = read_gguf(path), Counter[str]()
    optional = [f"{name}.{key}" for key in OPTIONAL_KEYS] + [f"tokenizer.ggml.{key}" for key in OPTIONAL_TOKENIZER_KEYS]
    assert refusing_layer(lambda: GgufCheckpoint(path)) == "none"
    for key in [*good.metadata, *optional]:
        for value in ODD:
            file = replace(good, metadata=good.metadata | {key: value})
            monkeypatch.setattr(gguf_checkpoint, "read_gguf", lambda _path, file=file: file)
            refused[refusing_layer(lambda: GgufCheckpoint(path))] += 1
    assert set(refused) >= {"open", "text", "none"}


OPTIONAL_KEYS = (
    "expert_count", "rope.dimension_count", "rope.scaling.type", "rope.scaling.factor", "attention.sliding_window",
    "attention.scale", "embedding_scale", "residual_scale", "logit_scale", "attn_logit_softcapping",
    "final_logit_softcapping", "rope.scaling.original_context_length", "rope.scaling.attn_factor",
)  # fmt: skip
OPTIONAL_TOKENIZER_KEYS = ("padding_token_id", "eot_token_id", "eom_token_id", "add_space_prefix", "scores", "merges")


def test_a_file_cut_anywhere_in_its_data_is_truncated(good_bytes: bytes, tmp_path: Path) -> None:
    path = tmp_path / "cut.gguf"
    path.write_bytes(good_bytes[:-40])
    with pytest.raises(SourceError, match="truncated"):
        read_gguf(path)


def test_an_unknown_architecture_lists_the_known(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "t.gguf", "mamba")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(UnsupportedError, match=r"'mamba' is not read.*gemma2, gemma3, granite, llama"):
        GgufCheckpoint(tmp_path / "t.gguf")


def test_nan_weights_are_damage(tmp_path: Path) -> None:
    config = tiny_config("llama")
    tensors = tiny_tensors(config)
    tensors["model.layers.1.mlp.down_proj.weight"][3, 5] = np.nan
    checkpoint = GgufCheckpoint(write_gguf(tmp_path / "nan.gguf", config, tensors, {}))
    with pytest.raises(SourceError, match=r"'blk.1.ffn_down.weight' holds NaN"):
        checkpoint.tensor("layers.1.down").numpy()
