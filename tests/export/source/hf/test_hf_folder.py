"""Hugging Face folders: shards, number types, other names of the same thing, and folders that lie."""

from __future__ import annotations

import json
import struct
from collections import Counter
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from export.checkpoint.checkpoint import check_shapes
from export.checkpoint.spec import weight_shapes
from export.errors import ExportError, SourceError, UnsupportedError
from export.graph.rope import rope_tables
from export.package.text_check import check_text_files
from export.source.hf.checkpoint import HfCheckpoint
from export.source.hf.json_object import JsonObject
from export.source.hf.spec import spec_from_config
from tests.export.damage import Damage, damage_within, refusing_layer
from tests.export.reference import reference_logits
from tests.export.tiny_models import (
    ARCHITECTURES,
    Tensors,
    tiny_config,
    tiny_input_ids,
    tiny_tensors,
    tiny_tokenizer_json,
    write_tiny_folder,
)


def change_json(path: Path, **changes: Any) -> None:
    values = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in values.items() if value is not ...}))


def open_whole(folder: Path) -> HfCheckpoint:
    """What a build does before it writes anything large."""
    checkpoint = HfCheckpoint(folder)
    check_shapes(checkpoint)
    check_text_files(checkpoint.text_files(), checkpoint.spec.vocab_size)
    for name in weight_shapes(checkpoint.spec):
        checkpoint.tensor(name).numpy()
    return checkpoint


def test_shards_hold_the_same_checkpoint(tmp_path: Path) -> None:
    one = open_whole(write_tiny_folder(tmp_path / "one", "qwen2"))
    three = open_whole(write_tiny_folder(tmp_path / "three", "qwen2", shards=3))
    ids = tiny_input_ids()
    assert np.array_equal(reference_logits(one, ids), reference_logits(three, ids))
    assert len(three.files()) == 3 + 3


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_every_float_type_is_read_exactly(dtype: type, tmp_path: Path) -> None:
    tensors: Tensors = {name: array.astype(dtype) for name, array in tiny_tensors(tiny_config("llama")).items()}
    checkpoint = open_whole(write_tiny_folder(tmp_path, "llama", tensors=tensors))
    for canonical, stored in (
        ("layers.1.down", "model.layers.1.mlp.down_proj.weight"),
        ("final_norm", "model.norm.weight"),
    ):
        assert np.array_equal(checkpoint.tensor(canonical).numpy(), tensors[stored].astype(np.float32))


def test_rope_may_be_spelled_the_new_way(tmp_path: Path) -> None:
    """transformers 5 writes rope_parameters where 4 wrote rope_theta and rope_scaling."""
    old = tiny_config("llama-3.1")
    new = dict(old, rope_parameters=old["rope_scaling"] | {"rope_theta": old["rope_theta"]})
    del new["rope_scaling"], new["rope_theta"]
    assert spec_from_config(JsonObject("new", new)) == spec_from_config(JsonObject("old", old))
    gemma = tiny_config("gemma3")
    by_kind = {"sliding_attention": {"rope_theta": 1e4}, "full_attention": {"rope_theta": 1e6}}
    nested = {key: value for key, value in gemma.items() if not key.startswith("rope")} | {"rope_parameters": by_kind}
    assert spec_from_config(JsonObject("new", nested)) == spec_from_config(JsonObject("old", gemma))


def test_gemma_3_may_come_as_the_text_half_of_a_multimodal_model(tmp_path: Path) -> None:
    tensors = {f"language_model.{name}": array for name, array in tiny_tensors(tiny_config("gemma3")).items()}
    folder = write_tiny_folder(tmp_path, "gemma3", tensors=tensors)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({"model_type": "gemma3", "text_config": config}))
    plain = HfCheckpoint(write_tiny_folder(tmp_path / "plain", "gemma3"))
    nested = open_whole(folder)
    assert nested.spec == plain.spec
    assert np.array_equal(nested.tensor("layers.0.q").numpy(), plain.tensor("layers.0.q").numpy())


def test_the_makers_texts_are_taken_over(tmp_path: Path) -> None:
    folder = write_tiny_folder(tmp_path, "llama")
    change_json(folder / "config.json", eos_token_id=[2, 7])
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": 9, "temperature": 0.6, "top_p": 0.9}))
    templates = [{"name": "tool_use", "template": "no"}, {"name": "default", "template": "{{ messages[0].content }}"}]
    change_json(folder / "tokenizer_config.json", chat_template=templates)
    text = open_whole(folder).text_files()
    assert text.stop_token_ids == (2, 7, 9)
    assert text.generation == {"temperature": 0.6, "top_p": 0.9}
    assert text.chat_template == "{{ messages[0].content }}"
    (folder / "chat_template.jinja").write_text("newer")
    assert open_whole(folder).text_files().chat_template == "newer"


@pytest.mark.parametrize(
    ("file", "changes", "error", "words"),
    [
        (
            "config.json",
            {"model_type": "mixtral"},
            UnsupportedError,
            "not supported; those that are: gemma2, gemma3_text",
        ),
        ("config.json", {"model_type": "bloom"}, UnsupportedError, "'powertrain export --via optimum' takes others"),
        ("config.json", {"model_type": None}, UnsupportedError, "not supported"),
        ("config.json", {"num_hidden_layers": 10**9}, SourceError, "'num_hidden_layers' is 1000000000"),
        ("config.json", {"num_hidden_layers": "2"}, SourceError, "a whole number"),
        ("config.json", {"num_hidden_layers": 3}, SourceError, "model.layers.2."),
        ("config.json", {"hidden_size": -64}, SourceError, "'hidden_size' is -64"),
        ("config.json", {"hidden_size": True}, SourceError, "'hidden_size' is True"),
        ("config.json", {"hidden_size": 128}, SourceError, "contradicts itself"),
        ("config.json", {"vocab_size": 97}, SourceError, "has shape [96, 64], the configuration implies [97, 64]"),
        ("config.json", {"num_key_value_heads": 3}, SourceError, "cannot share 3 key heads"),
        ("config.json", {"rms_norm_eps": float("nan")}, SourceError, "'rms_norm_eps' is nan"),
        ("config.json", {"hidden_act": "relu2"}, UnsupportedError, "activation 'relu2'"),
        ("config.json", {"quantization_config": {"quant_method": "fp8"}}, UnsupportedError, "quantized by 'fp8'"),
        ("config.json", {"rope_scaling": {"rope_type": "dynamic", "factor": 2}}, UnsupportedError, "'dynamic'"),
        ("config.json", {"rope_scaling": [1]}, SourceError, "'rope_scaling' is [1]"),
        ("config.json", {"rope_scaling": {"rope_type": "linear"}}, SourceError, "'factor' is None"),
        ("config.json", {"eos_token_id": 96}, SourceError, "outside the vocabulary"),
        ("config.json", {"eos_token_id": "two"}, SourceError, "a token id or a list"),
        ("tokenizer_config.json", {"chat_template": "{% for %}"}, SourceError, "cannot be compiled"),
        ("tokenizer_config.json", {"chat_template": "{{ 1 // 0 }}"}, SourceError, "cannot render a first turn"),
        ("tokenizer_config.json", {"chat_template": "{{ raise_exception('never') }}"}, SourceError, "never"),
        ("tokenizer_config.json", {"chat_template": 5}, SourceError, "'chat_template' is 5"),
        ("tokenizer_config.json", {"bos_token": 5}, SourceError, "'bos_token' is 5"),
    ],
)
def test_a_contradiction_is_one_clear_error(
    file: str, changes: dict[str, Any], error: type[ExportError], words: str, tmp_path: Path
) -> None:
    folder = write_tiny_folder(tmp_path, "llama")
    change_json(folder / file, **changes)
    with pytest.raises(error) as caught:
        open_whole(folder)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_tokenizer_and_embedding_must_agree(tmp_path: Path) -> None:
    folder = write_tiny_folder(tmp_path, "llama")
    (folder / "tokenizer.json").write_text(tiny_tokenizer_json(97))
    with pytest.raises(SourceError, match="the tokenizer has 97 tokens, the embedding has 96 rows"):
        open_whole(folder)
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(SourceError, match=r"tokenizer.json cannot be used"):
        open_whole(folder)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(SourceError, match=r"tokenizer.json is missing"):
        open_whole(folder)


@pytest.mark.parametrize("name", ["../secret.safetensors", "/etc/passwd", "a/b.safetensors", "..", "", "a\\b", "x\0y"])
def test_a_shard_index_may_not_leave_the_folder(name: str, tmp_path: Path) -> None:
    folder = write_tiny_folder(tmp_path / "hf", "llama", shards=2)
    save_file({"model.norm.weight": np.ones(64, np.float32)}, tmp_path / "secret.safetensors")
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    index["weight_map"]["model.norm.weight"] = name
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(SourceError, match="not a plain file name"):
        HfCheckpoint(folder)


def test_links_out_of_the_folder_are_refused_and_the_hub_cache_is_not(tmp_path: Path) -> None:
    folder = write_tiny_folder(tmp_path / "repo" / "snapshots" / "abc", "llama")
    weights = folder / "model.safetensors"
    elsewhere = tmp_path / "elsewhere.safetensors"
    weights.rename(elsewhere)
    weights.symlink_to(elsewhere)
    with pytest.raises(SourceError, match="link out of the folder"):
        HfCheckpoint(folder)
    blobs = tmp_path / "repo" / "blobs"
    blobs.mkdir()
    elsewhere.rename(blobs / "0123")
    weights.unlink()
    weights.symlink_to(blobs / "0123")
    open_whole(folder)


def test_missing_and_foreign_weights_are_named(tmp_path: Path) -> None:
    folder = write_tiny_folder(tmp_path, "llama", shards=2)
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(SourceError, match=r"model-00002-of-00002.safetensors is missing"):
        HfCheckpoint(folder)
    (folder / "model.safetensors.index.json").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(SourceError, match="other weight files are not read"):
        HfCheckpoint(folder)
    whole = tiny_tensors(tiny_config("llama")) | {"model.norm.weight": np.ones(64, np.int8)}
    with pytest.raises(UnsupportedError, match="has type I8; BF16, F16, F32, F64 are read"):
        open_whole(write_tiny_folder(tmp_path / "int8", "llama", tensors=whole))
    whole["model.norm.weight"] = np.full(64, np.inf, np.float32)
    with pytest.raises(SourceError, match=r"'model.norm.weight' holds NaN or infinite values"):
        open_whole(write_tiny_folder(tmp_path / "inf", "llama", tensors=whole))


HEADERS: dict[str, Any] = {
    "length beyond the file": struct.pack("<Q", 1 << 40) + b"{}",
    "length of 2^63": struct.pack("<Q", 1 << 63) + b"{}",
    "not JSON": struct.pack("<Q", 4) + b"\xff\xff\xff\xff",
    "a list": struct.pack("<Q", 2) + b"[]",
    "empty": b"",
    "negative size": {"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}},
    "2^80 values": {"a": {"dtype": "F32", "shape": [1 << 40, 1 << 40], "data_offsets": [0, 4]}},
    "overlap": {
        "a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
        "b": {"dtype": "F32", "shape": [1], "data_offsets": [2, 6]},
    },
    "beyond the data": {"a": {"dtype": "F32", "shape": [4096], "data_offsets": [0, 16384]}},
    "backwards": {"a": {"dtype": "F32", "shape": [1], "data_offsets": [8, 4]}},
}


@pytest.mark.parametrize("case", HEADERS)
def test_a_lying_safetensors_header_is_one_clear_error(case: str, tmp_path: Path) -> None:
    header, folder = HEADERS[case], write_tiny_folder(tmp_path, "llama")
    if isinstance(header, dict):
        encoded = json.dumps(header).encode()
        header = struct.pack("<Q", len(encoded)) + encoded + bytes(64)
    (folder / "model.safetensors").write_bytes(header)
    with pytest.raises(SourceError, match="not a usable safetensors file"):
        HfCheckpoint(folder)


def test_damaged_folders_are_refused_or_read_never_worse(tmp_path: Path) -> None:
    """Bytes of any file changed and it cut anywhere: an ExportError of one line, or tensors as stated.

    Every layer must have had folders to refuse and to hand on, else this would test the first one only.
    """
    folder, refused = write_tiny_folder(tmp_path, "llama"), Counter[str]()
    change_json(folder / "tokenizer_config.json", chat_template="{% for m in messages %}{{ m.content }}{% endfor %}")
    files = {path: path.read_bytes() for path in sorted(folder.iterdir())}
    weights_file = folder / "model.safetensors"
    weights = files[weights_file]
    data = 8 + int.from_bytes(weights[:8], "little")
    damages = [
        st.tuples(st.just(path), damage_within((0, len(content)), (0, min(len(content), data))))
        for path, content in files.items()
    ]
    damages.append(st.tuples(st.just(weights_file), damage_within((data, len(weights)))))
    not_a_number = Damage([(data + 2, 255), (data + 3, 255)], 1.0)
    template = folder / "tokenizer_config.json"
    no_template = Damage([(files[template].index(b"endfor"), ord("x"))], 1.0)

    @settings(max_examples=300, derandomize=True, deadline=None)
    @example(damaged=(weights_file, not_a_number))
    @example(damaged=(template, no_template))
    @given(damaged=st.one_of(*damages))
    def check(damaged: tuple[Path, Damage]) -> None:
        path, damage = damaged
        path.write_bytes(damage.done_to(files[path]))
        refused[refusing_layer(lambda: HfCheckpoint(folder))] += 1
        path.write_bytes(files[path])

    check()
    assert set(refused) == {"open", "shapes", "text", "text check", "values", "none"}


NUMBERS: list[Any] = [0, 1, -1, 3, 2**31, 2**63, 10**400, 0.0, -1.0, 1e-300, 1e300, float("nan"), float("inf"), True]
ODD = [None, "", "x", "linear", {}, {"a": 1}, [], [1], ["x"], [None, None], *NUMBERS]
OPTIONAL_KEYS = (
    "rope_theta", "rope_scaling", "rope_parameters", "quantization_config", "text_config", "head_dim", "layer_types",
    "sliding_window", "use_sliding_window", "max_window_layers", "no_rope_layers", "no_rope_layer_interval",
    "partial_rotary_factor", "original_max_position_embeddings", "attention_bias", "mlp_bias", "hidden_activation",
    "attention_multiplier", "embedding_multiplier", "residual_multiplier", "logits_scaling", "query_pre_attn_scalar",
    "attn_logit_softcapping", "final_logit_softcapping", "sliding_window_pattern", "rope_local_base_freq",
)  # fmt: skip


@pytest.mark.parametrize("name", ["llama-3.1", "llama-yarn", "phi3-longrope", "gemma3", "granite", "smollm3", "qwen2"])
def test_any_value_under_any_key_of_a_config_is_refused_or_read_never_worse(name: str) -> None:
    """Each key, also of rope_scaling, in turn with values of other types and beyond every bound."""
    config, num_read, num_refused = tiny_config(name), 0, 0
    configs = [config | {key: value} for key in (*config, *OPTIONAL_KEYS) for value in ODD]
    scaling = config.get("rope_scaling", {})
    configs += [config | {"rope_scaling": scaling | {key: value}} for key in scaling for value in ODD]
    for changed in configs:
        try:
            spec = spec_from_config(JsonObject("config.json", changed))
        except ExportError as error:
            message = str(error)
            num_refused += 1
        else:
            message = ""
            num_read += 1
            tables = [table for rope in spec.ropes for table in rope_tables(rope, 64)]
            assert all(np.isfinite(table).all() for table in tables)
        assert "\n" not in message
        assert len(message) < 1000
    assert min(num_read, num_refused) > 100


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_tensor_of_a_folder_is_used(name: str, tmp_path: Path) -> None:
    """A tensor that the mapping forgets would be a silent error: as many values are read as are stored."""
    checkpoint = HfCheckpoint(write_tiny_folder(tmp_path, name))
    stored = sum(array.size for array in tiny_tensors(tiny_config(name)).values())
    assert sum(int(np.prod(shape)) for shape in weight_shapes(checkpoint.spec).values()) == stored
