"""Writes a package as a folder that ONNX Runtime GenAI runs: graph, data, tokenizer and ``genai_config.json``.

The keys are those of GenAI 0.18's model builder. Sampling is what the package's ``generation_config.json`` says, as
far as GenAI has it: it knows no ``min_p``. Knows no graph's inside.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
from runtime.package import graph_io
from runtime.package import manifest as package
from runtime.package.generation_config import GenerationConfig
from tokenizers import Tokenizer

from export.errors import ExportError, UnsupportedError
from export.graph.writer import GRAPH_FILE
from export.interop.masked_graph import ATTENTION_MASK
from export.interop.package_parts import copy_texts, masked_ort_graph, write_graph_and_data

CONFIG_FILE = "genai_config.json"
TOKENIZER_CONFIG_FILE = "tokenizer_config.json"

_TYPE = "decoder"
"""GenAI's word for a decoder that it has no special rules for: the graph holds the model's own."""


def write_genai_folder(source: package.Package, folder: Path) -> None:
    """Fill the empty ``folder``. Raises UnsupportedError, naming it, for what GenAI cannot take."""
    info, model = masked_ort_graph(source, "ONNX Runtime GenAI")
    if info.kv_dtype == "int8":
        raise UnsupportedError(
            f"package {source.manifest.name!r} has an int8 cache; export it with --kv-cache float for GenAI"
        )
    write_graph_and_data(source, info, model, folder)
    copy_texts(source, folder)
    _write_json(folder / TOKENIZER_CONFIG_FILE, _tokenizer_config(source))
    _write_json(folder / CONFIG_FILE, genai_config(source, info))


def genai_config(source: package.Package, info: package.GraphInfo) -> dict[str, Any]:
    """``genai_config.json`` of a package with a spec, for its graph ``info``."""
    manifest, spec = source.manifest, source.manifest.spec
    past, present = ("past_key_values.%d", "present.%d")
    decoder = {
        "session_options": {
            "log_id": "onnxruntime-genai",
            "provider_options": [] if "cpu" in info.providers else [{"cuda": {}}],
        },
        "filename": GRAPH_FILE,
        "head_size": manifest.shape.head_dim,
        "hidden_size": spec["hidden_size"],
        "inputs": {
            graph_io.INPUT_IDS: graph_io.INPUT_IDS,
            ATTENTION_MASK: ATTENTION_MASK,
            "past_key_names": f"{past}.key",
            "past_value_names": f"{past}.value",
        },
        "outputs": {
            graph_io.LOGITS: graph_io.LOGITS,
            "present_key_names": f"{present}.key",
            "present_value_names": f"{present}.value",
        },
        "num_attention_heads": spec["num_heads"],
        "num_hidden_layers": manifest.shape.num_layers,
        "num_key_value_heads": manifest.shape.num_kv_heads,
    }
    return {
        "model": {
            **_token_ids(source),
            "context_length": manifest.max_model_len,
            "decoder": decoder,
            "type": _TYPE,
            "vocab_size": manifest.shape.vocab_size,
        },
        "search": {**_sampling(source), "max_length": manifest.max_model_len, "past_present_share_buffer": True},
    }


def _token_ids(source: package.Package) -> dict[str, Any]:
    """The tokens that begin, end and pad; what pads is masked, so where the package names none the first end does."""
    manifest = source.manifest
    if not manifest.stop_token_ids:
        raise ExportError(f"package {manifest.name!r} names no token that ends an answer; GenAI needs one")
    tokenizer = Tokenizer.from_str(source.read_text(package.TOKENIZER_FILE))
    named = {key: tokenizer.token_to_id(text) for key, text in manifest.special_tokens.items()}
    ends = list(manifest.stop_token_ids)
    pads, begins = named.get("pad_token"), named.get("bos_token")
    ids: dict[str, Any] = {"eos_token_id": ends, "pad_token_id": ends[0] if pads is None else pads}
    return ids if begins is None else {"bos_token_id": begins, **ids}


def _sampling(source: package.Package) -> dict[str, Any]:
    """GenAI's search options for an answer whose request says nothing, as ``powertrain serve`` would draw it."""
    text = source.read_bytes(package.GENERATION_CONFIG_FILE)
    given = msgspec.json.decode(text, type=GenerationConfig).given()
    temperature = given.get("temperature", 1.0)
    return {
        "do_sample": temperature > 0,
        "temperature": temperature or 1.0,
        "top_p": given.get("top_p", 1.0),
        "top_k": max(0, int(given.get("top_k", 0))),
        "repetition_penalty": given.get("repetition_penalty", 1.0),
    }


def _tokenizer_config(source: package.Package) -> dict[str, Any]:
    """What GenAI asks of a tokenizer beside ``tokenizer.json``: its class, special tokens and chat template."""
    config: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", **source.manifest.special_tokens}
    if package.CHAT_TEMPLATE_FILE in source.manifest.files:
        config["chat_template"] = source.read_text(package.CHAT_TEMPLATE_FILE)
    return config


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
