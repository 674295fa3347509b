"""Published folders export as they are: what a config leaves out is its class's default, and no tensor is lost."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

from export.checkpoint.checkpoint import check_shapes
from export.checkpoint.spec import LayerSpec, weight_shapes
from export.errors import SourceError, UnsupportedError
from export.package.builder import build_package
from export.package.text_check import check_text_files
from export.progress import SilentReporter
from export.source.hf.checkpoint import HfCheckpoint
from export.source.hf.class_defaults import with_class_defaults
from export.source.hf.json_object import JsonObject
from export.source.hf.spec import spec_from_config, supported_model_types
from export.source.recipe import FolderSource, Recipe
from runtime.package.manifest import TOKENIZER_FILE, Package, load_package
from tests.export.reference import reference_logits
from tests.export.source.hf.published import PUBLISHED, VOCAB, published_folder
from tests.export.tiny_models import tiny_config, tiny_input_ids, tiny_tensors, write_tiny_folder


def build(folder: Path, root: Path) -> Package:
    recipe = Recipe(name="t", source=FolderSource(path=str(folder)), precision="fp32", quality=None, max_model_len=32)
    return load_package(build_package(recipe, root.parent, root, SilentReporter()).root)


def spec_of(name: str, **changes: Any) -> Any:
    return spec_from_config(JsonObject("config.json", PUBLISHED[name]["config"] | changes))


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_config_gives_the_published_number_of_weights(name: str) -> None:
    """One wrong size, head count, bias or tied head would be seen in this number. ONNX Runtime can rotate its heads."""
    spec = spec_of(name)
    assert sum(math.prod(shape) for shape in weight_shapes(spec).values()) == PUBLISHED[name]["parameters"]
    assert all(rope.dim % 16 == 0 for rope in spec.ropes)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_folder_exports_whole(name: str, tmp_path: Path) -> None:
    folder = published_folder(tmp_path / "hf", name)
    manifest = build(folder, tmp_path / "package").manifest
    assert manifest.stop_token_ids == (2,)
    checkpoint = HfCheckpoint(folder)
    read = sum(checkpoint.tensor(tensor).numpy().size for tensor in weight_shapes(checkpoint.spec))
    stored = (folder / "model.safetensors").stat().st_size // 4
    assert stored - 4000 < read <= stored  # the header takes the rest


def test_what_a_silent_config_means() -> None:
    """Windows, ropes and scales, which no number of weights shows."""
    gemma = spec_of("google/gemma-3-4b-it")
    assert (gemma.num_heads, gemma.num_kv_heads, gemma.head_dim, gemma.vocab_size) == (8, 4, 256, 262_208)
    assert (gemma.max_positions, gemma.attention_scale, gemma.logits_softcap) == (131_072, 256**-0.5, 0.0)
    assert [layer.window for layer in gemma.layers[:7]] == [1024] * 5 + [None, 1024]
    assert [(rope.theta, rope.scaling and rope.scaling.factor) for rope in gemma.ropes] == [(1e6, 8.0), (1e4, None)]
    assert gemma.activation == "gelu_tanh"
    silent = spec_from_config(JsonObject("c", {"model_type": "gemma2"}))
    assert (silent.attention_softcap, silent.logits_softcap, silent.layers[0].window) == (50.0, 30.0, 4096)
    assert spec_from_config(JsonObject("c", {"model_type": "mistral"})).layers[0].window == 4096
    assert spec_of("mistralai/Mistral-7B-Instruct-v0.3").layers[0].window is None
    qwen = spec_from_config(JsonObject("c", {"model_type": "qwen2", "use_sliding_window": True}))
    assert [layer.window for layer in qwen.layers] == [None] * 28 + [4096] * 4
    smol = spec_of("HuggingFaceTB/SmolLM3-3B")
    assert [layer.rope for layer in smol.layers[:4]] == [0, 0, 0, None]
    assert spec_of("microsoft/Phi-4-mini-instruct").ropes[0].dim == 96
    assert spec_of("google/gemma-2-27b-it").attention_scale == 144**-0.5


@pytest.mark.parametrize("model_type", supported_model_types())
def test_every_architecture_has_its_class_s_defaults(model_type: str) -> None:
    """And what a config says itself stays, null too."""
    spoken = {"model_type": model_type, "num_hidden_layers": 3, "sliding_window": None}
    config = with_class_defaults(JsonObject("config.json", spoken), model_type)
    assert config.values.items() >= spoken.items()
    assert {"hidden_size", "intermediate_size", "num_attention_heads", "vocab_size", "rms_norm_eps"} <= {*config.values}


def test_a_token_beyond_the_embedding_is_text(tmp_path: Path) -> None:
    """Gemma 3 1B's tokenizer ends with a picture's token, which its embedding has no row for."""
    folder = published_folder(tmp_path / "hf", "google/gemma-3-1b-it")
    tokenizer = Tokenizer.from_str(build(folder, tmp_path / "package").read_text(TOKENIZER_FILE))
    assert tokenizer.get_vocab_size() == VOCAB
    assert max(tokenizer.encode("<image_soft_token>").ids) < VOCAB
    assert tokenizer.token_to_id("</s>") == 2
    whole = json.loads((folder / "tokenizer.json").read_text())
    whole["model"]["vocab"]["gap"] = VOCAB + 5
    (folder / "tokenizer.json").write_text(json.dumps(whole))
    with pytest.raises(SourceError, match=f"the tokenizer has {VOCAB + 6} tokens, the embedding has {VOCAB} rows"):
        check_text_files(HfCheckpoint(folder).text_files(), VOCAB)


def test_granite_4_without_experts_computes_what_granite_3_does(tmp_path: Path) -> None:
    """The same weights under the other class's names."""
    config = tiny_config("granite")
    plain = HfCheckpoint(write_tiny_folder(tmp_path / "3", "granite"))
    tensors = {}
    for name, array in tiny_tensors(config).items():
        if name.endswith("gate_proj.weight"):
            up = tiny_tensors(config)[name.replace("gate_proj", "up_proj")]
            tensors[name.replace("mlp.gate_proj", "shared_mlp.input_linear")] = np.concatenate([array, up])
        elif "up_proj" not in name:
            tensors[name.replace("mlp.down_proj", "shared_mlp.output_linear")] = array
    folder = write_tiny_folder(tmp_path / "4", "granite", tensors=tensors)
    changes = {
        "model_type": "granitemoehybrid", "num_local_experts": 0, "layer_types": ["attention"] * 2,
        "shared_intermediate_size": config["intermediate_size"], "intermediate_size": 7,
        "position_embedding_type": "rope",
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config | changes))
    hybrid = HfCheckpoint(folder)
    check_shapes(hybrid)
    assert np.array_equal(reference_logits(hybrid, tiny_input_ids()), reference_logits(plain, tiny_input_ids()))
    assert replace(hybrid.spec, architecture="granite") == plain.spec
    without = spec_from_config(JsonObject("c", config | changes | {"position_embedding_type": None}))
    assert without.layers == (LayerSpec(rope=None),) * 2


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("ibm-granite/granite-4.0-micro", {"num_local_experts": 62}, "a mixture of 62 experts"),
        ("ibm-granite/granite-4.0-micro", {"layer_types": ["mamba"] * 40}, "layers of kind 'mamba'"),
        ("ibm-granite/granite-4.0-micro", {"layer_types": None}, "layers of kind 'linear_attention'"),
        ("google/gemma-3-1b-it", {"use_bidirectional_attention": True}, "attention to later tokens"),
        ("google/gemma-3-4b-it", {"text_config": {"model_type": "gemma4_text"}}, "'gemma4_text' is not supported"),
        (
            "mistralai/Mistral-Small-3.1-24B-Instruct-2503",
            {"text_config": {"model_type": "ministral3"}},
            "'ministral3' is not supported",
        ),
    ],
)
def test_relatives_that_compute_something_else_are_refused(name: str, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UnsupportedError, match=words):
        spec_of(name, **changes)


def test_phi_3_s_longrope_may_be_called_yarn() -> None:
    published = PUBLISHED["microsoft/Phi-3.5-mini-instruct"]["config"]
    spec = spec_of("microsoft/Phi-3.5-mini-instruct", rope_scaling=published["rope_scaling"] | {"type": "yarn"})
    assert spec == spec_of("microsoft/Phi-3.5-mini-instruct")
    assert spec.ropes[0].scaling is not None
    assert spec.ropes[0].scaling.kind == "longrope"


def test_a_processor_s_template_and_the_text_half_s_stop_tokens_are_read(tmp_path: Path) -> None:
    """Multimodal folders keep the template in chat_template.json, and may name the end tokens in text_config."""
    folder = write_tiny_folder(tmp_path, "gemma3")
    config = {"model_type": "gemma3", "text_config": tiny_config("gemma3") | {"eos_token_id": [1, 5]}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": "{{ messages[0].content }}"}))
    text = HfCheckpoint(folder).text_files()
    assert text.chat_template == "{{ messages[0].content }}"
    assert text.stop_token_ids == (1, 2, 5)
