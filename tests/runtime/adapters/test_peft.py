"""PEFT's folders: ranks, scales, fused modules; and everything that is more than plain LoRA is refused by name."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from runtime.adapters.fitted import fitted
from runtime.adapters.peft import adapter_digests, read_adapter
from runtime.errors import AdapterError, TrustError
from runtime.package.adapter_room import AdapterPart, AdapterProjection, AdapterRoom
from tests.adapter_folders import Pair, write_adapter

Q, V = "model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.v_proj"


def pair(rank: int, num_in: int = 3, num_out: int = 4) -> Pair:
    return np.ones((rank, num_in), np.float32), np.ones((num_out, rank), np.float32)


def test_scales_are_alpha_over_rank_or_its_root_by_module(tmp_path: Path) -> None:
    pairs = {Q: pair(4), V: pair(2), "model.layers.1.mlp.up_proj": pair(4)}
    config: dict[str, Any] = {"lora_alpha": 8, "rank_pattern": {"v_proj": 2}, "alpha_pattern": {"^" + V: 3}}
    found = read_adapter(write_adapter(tmp_path / "a", pairs, **config), "mine")
    assert found.name == "mine"
    assert {key: float(change.b[0, 0]) for key, change in found.changes.items()} == {
        (0, ("q",)): 2.0, (1, ("v",)): 1.5, (1, ("up",)): 2.0}  # fmt: skip
    stable = read_adapter(write_adapter(tmp_path / "b", pairs, use_rslora=True, fan_in_fan_out=True, **config))
    assert stable.changes[0, ("q",)].b[0, 0] == np.float32(4.0)
    assert stable.digest != found.digest
    assert stable.name == "b"


def test_half_precision_and_the_adapters_name_in_keys(tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "a", {Q: pair(2)})
    half = {f"base_model.model.{Q}.lora_{side}.default.weight": np.full(shape, 0.5, np.float16)
            for side, shape in (("A", (2, 3)), ("B", (4, 2)))}  # fmt: skip
    save_file(half, folder / "adapter_model.safetensors")
    change = read_adapter(folder).changes[0, ("q",)]
    assert change.a.dtype == np.float32
    assert (change.a[0, 0], change.b[0, 0]) == (0.5, 0.5)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"use_dora": True}, "use_dora is set"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save is set"),
        ({"bias": "lora_only"}, "bias is 'lora_only'"),
        ({"lora_bias": True}, "lora_bias is set"),
        ({"layer_replication": [[0, 1]]}, "layer_replication is set"),
        ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights is 'pissa_niter_4'"),
        ({"peft_type": "IA3"}, "peft_type is 'IA3'"),
        ({"r": 0}, "rank 0 is not between 1 and 512"),
        ({"r": 3}, r"shape \[2, 3\], adapter_config.json says rank 3"),
        ({"lora_alpha": "x"}, "adapter_config.json is not readable"),
        ({"lora_alpha": 1e39}, "q_proj' times lora_alpha's scale holds NaN or infinite values"),
        ({"alpha_pattern": {".*q_proj": 2}}, r"the pattern '\.\*q_proj' is an expression"),
        ({"target_modules": ["q_proj", "k_proj"]}, "target_modules names 'k_proj', of which"),
    ],
)
def test_what_is_not_plain_lora_is_refused_by_its_key(config: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match=f"^a: .*{said}"):
        read_adapter(write_adapter(tmp_path / "a", {Q: pair(2)}, **config))


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ({"base_model.model.lm_head.lora_A.weight": (2, 3)}, "'base_model.model.lm_head.lora_A.weight' is not applied"),
        ({f"base_model.model.{Q}.lora_magnitude_vector.weight": (2, 3)}, "is not applied here"),
        ({"base_model.model.model.layers.0.self_attn.rotary_emb.lora_A.weight": (2, 3)}, "is not applied here"),
        ({f"base_model.model.{Q}.lora_A.weight": (2, 3)}, "q_proj has no lora_B"),
        ({f"base_model.model.{Q}.lora_A.weight": (2,)}, "is no matrix"),
        (
            {f"{way}{Q}.lora_{side}.weight": (2, 2) for way in ("", "base_model.model.") for side in "AB"},
            "another spelling",
        ),
        (
            {f"{way}{Q}.lora_{side}.weight": (2, 2) for way in ("", "other.") for side in "AB"},
            "q of layer 0 a second time",
        ),
        ({}, "holds no tensor"),
    ],
)
def test_strange_tensors_are_refused_by_name(tensors: dict[str, tuple[int, ...]], said: str, tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "a", {Q: pair(2)}, target_modules="all-linear")
    filled = {name: np.ones(shape, np.float32) for name, shape in tensors.items()}
    save_file(filled, folder / "adapter_model.safetensors")
    with pytest.raises(AdapterError, match=said):
        read_adapter(folder)


def test_what_is_checked_is_what_is_used(tmp_path: Path) -> None:
    folder, seen = write_adapter(tmp_path / "a", {Q: pair(2)}), list[dict[str, str]]()
    weights = folder / "adapter_model.safetensors"

    def refuse(_folder: Path, found: Mapping[str, str]) -> None:
        seen.append(dict(found))
        raise TrustError("not signed")

    with pytest.raises(TrustError, match="not signed"):
        read_adapter(folder, check=refuse)
    names = ("adapter_config.json", "adapter_model.safetensors")
    assert seen == [{name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}]
    assert adapter_digests(folder) == seen[0]

    def touch(_folder: Path, _found: Mapping[str, str]) -> None:
        before = weights.stat().st_ctime_ns
        while weights.stat().st_ctime_ns == before:
            weights.touch()

    with pytest.raises(AdapterError, match=r"adapter_model\.safetensors changed while it was read; try again"):
        read_adapter(folder, check=touch)


def test_damage_and_links_are_one_error_without_a_path(tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "a", {Q: (np.full((2, 3), np.nan, np.float32), pair(2)[1])})
    with pytest.raises(AdapterError, match="NaN"):
        read_adapter(folder)
    weights = folder / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:60])
    with pytest.raises(AdapterError, match="not usable"):
        read_adapter(folder)
    weights.rename(tmp_path / "elsewhere")
    with pytest.raises(AdapterError, match=r"adapter_model.safetensors is missing"):
        read_adapter(folder)
    weights.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(AdapterError, match="is a link out of the folder") as error:
        read_adapter(folder)
    assert str(tmp_path) not in str(error.value)
    (folder / "adapter_config.json").write_text(json.dumps([1]))
    weights.unlink()
    weights.write_bytes(b"")
    with pytest.raises(AdapterError, match="not readable"):
        read_adapter(folder)


ROOM = AdapterRoom(
    rank=2,
    num_layers=2,
    projections=(
        AdapterProjection(
            name="qkv",
            inputs=3,
            outputs=8,
            parts=(AdapterPart(role="q", start=0, outputs=4, scale=0.5), AdapterPart(role="v", start=6, outputs=2)),
        ),
    ),
)


def test_matrices_are_laid_out_in_columns_of_their_own(tmp_path: Path) -> None:
    pairs = {Q: (np.array([[1, 2, 3]], np.float32), np.array([[1], [2], [3], [4]], np.float32)), V: pair(1, 3, 2)}
    adapter = fitted(read_adapter(write_adapter(tmp_path / "a", pairs)), ROOM)
    assert sorted(adapter.matrices) == [f"lora.{layer}.qkv.{side}" for layer in (0, 1) for side in "ab"]
    a, b = adapter.matrices["lora.0.qkv.a"], adapter.matrices["lora.0.qkv.b"]
    assert (a.shape, b.shape) == ((1, 3, 16), (1, 16, 8))
    assert a[0, :, 0].tolist() == [1, 2, 3]
    assert not a[0, :, 1:].any()
    assert b[0, 0].tolist() == [0.5, 1, 1.5, 2, 0, 0, 0, 0]
    assert not b[0, 1:].any()
    assert adapter.matrices["lora.1.qkv.a"][0, :, 2].tolist() == [1, 1, 1]  # v's columns come behind q's two
    assert adapter.matrices["lora.1.qkv.b"][0, 2].tolist() == [0, 0, 0, 0, 0, 0, 1, 1]


@pytest.mark.parametrize(
    ("module", "given", "said"),
    [
        (Q, pair(3), "rank 3 is above the 2 .* --lora-rank 3"),
        ("model.layers.0.self_attn.k_proj", pair(2), "it changes k, the package has room for q, v; .*--lora-targets"),
        ("model.layers.2.self_attn.q_proj", pair(2), "it changes layer 2, the model has layers 0 to 1"),
        (Q, pair(2, num_out=5), "q of layer 0 has 5 outputs, the model's has 4"),
        (Q, pair(2, num_in=4), "q reads 4 inputs, the model's 3"),
    ],
)
def test_what_does_not_fit_the_room_is_refused(module: str, given: Pair, said: str, tmp_path: Path) -> None:
    adapter = read_adapter(write_adapter(tmp_path / "a", {module: given}))
    with pytest.raises(AdapterError, match=said):
        fitted(adapter, ROOM)
