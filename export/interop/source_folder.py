"""A folder with somebody else's decoder graph: ONNX Runtime GenAI's, or an Optimum export. What it says of its graph.

Knows the two layouts and their configuration files; opens no graph.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runtime.package import graph_io

from export.errors import SourceError, UnsupportedError
from export.graph.writer import GRAPH_FILE
from export.source.hf.checkpoint import INDEX_FILE, SINGLE_FILE
from export.source.hf.folder_file import inside, inside_if_there
from export.source.hf.json_object import JsonObject, read_json_object

GENAI_FILE = "genai_config.json"
ATTENTION_MASK = "attention_mask"
POSITION_IDS = "position_ids"

_CONFIG = "config.json"
SUBFOLDER = "onnx"
_SEVERAL_GRAPHS = {
    "encoder_model.onnx": "an encoder and a decoder",
    "vision_encoder.onnx": "a vision encoder",
    "embed_tokens.onnx": "embeddings apart from the decoder",
    "decoder_model_merged.onnx": "a merged decoder, whose use_cache_branch chooses between two graphs",
    "decoder_with_past_model.onnx": "two decoders, one with and one without a cache",
    "decoder_model.onnx": "a decoder beside another graph",
}
_OTHER_PARTS = ("encoder", "encoder_decoder_init", "vision", "speech", "embedding", "vad", "joiner")
_LENGTH_KEYS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length")


@dataclass(frozen=True, slots=True)
class SourceFolder:
    """``names`` maps the graph's own names of inputs and outputs to ours, a layer's with ``%d``.

    ``sizes`` are what the configuration says of the graph's dimensions, for those that the graph leaves open, by
    ``ModelShape``'s names. ``context`` is the longest that the configuration allows, None where it does not say;
    ``stop_token_ids`` and ``sampling`` are what GenAI's adds to the text files.
    """

    writer: str
    graph: Path
    architecture: str
    context: int | None
    names: dict[str, str]
    configs: tuple[Path, ...]
    sizes: dict[str, int] = field(default_factory=dict)
    stop_token_ids: tuple[int, ...] = ()
    sampling: dict[str, Any] = field(default_factory=dict)


def holds_foreign_graph(folder: Path) -> bool:
    """True for a folder whose model is an ONNX graph: safetensors, where there are any, come first."""
    if any((folder / name).is_file() for name in (SINGLE_FILE, INDEX_FILE)):
        return False
    places = (folder, folder / SUBFOLDER)
    return any((place / name).is_file() for place in places for name in (GENAI_FILE, GRAPH_FILE, *_SEVERAL_GRAPHS))


def read_source_folder(folder: Path) -> SourceFolder:
    """What the folder's configuration says. Raises UnsupportedError, naming it, for what is no lone decoder."""
    return _genai(folder) if (folder / GENAI_FILE).is_file() else _optimum(folder)


def _optimum(folder: Path) -> SourceFolder:
    below = folder if (folder / GRAPH_FILE).is_file() else folder / SUBFOLDER
    if below.is_symlink():
        raise SourceError(f"{folder.name}: {SUBFOLDER!r} is a link; copy the folder")
    is_whole = (below / GRAPH_FILE).is_file()  # then decoders beside it are other spellings of the same
    parts = [name for name in _SEVERAL_GRAPHS if not (is_whole and name.startswith("decoder"))]
    several = next((name for name in parts if (below / name).is_file() or (folder / name).is_file()), None)
    if several is not None:
        raise UnsupportedError(
            f"{folder.name}: {several}: {_SEVERAL_GRAPHS[several]}; one decoder graph with a cache, {GRAPH_FILE}, can "
            "be taken, or the checkpoint that it was made of"
        )
    config = read_json_object(inside(folder, _CONFIG))
    context = next((config.size(key) for key in _LENGTH_KEYS if key in config), None)
    return SourceFolder(
        writer="Optimum",
        graph=inside(below, GRAPH_FILE),
        architecture=config.text("model_type") or "unknown",
        context=context,
        names=_names({}, {}),
        configs=(folder / _CONFIG,),
    )


def _genai(folder: Path) -> SourceFolder:
    config = read_json_object(inside(folder, GENAI_FILE))
    model = _part(config, "model")
    for key in _OTHER_PARTS:
        if key in model:
            raise UnsupportedError(f"{GENAI_FILE}: a part {key!r} beside the decoder; a lone decoder runs here")
    decoder = _part(model, "decoder")
    for key, what in (
        ("pipeline", "a pipeline of several graphs"),
        ("sliding_window", "a cache that slides: only whole ones are kept here"),
    ):
        if key in decoder:
            raise UnsupportedError(f"{GENAI_FILE}: decoder.{key}: {what}")
    options = decoder.object("session_options") or JsonObject(GENAI_FILE, {})
    if "custom_ops_library" in options:
        raise UnsupportedError(f"{GENAI_FILE}: custom_ops_library: foreign code is not loaded")
    inputs, outputs = (decoder.object(key) or JsonObject(GENAI_FILE, {}) for key in ("inputs", "outputs"))
    return SourceFolder(
        writer="ONNX Runtime GenAI",
        graph=inside(folder, decoder.text("filename") or GRAPH_FILE),
        architecture=model.text("type") or "unknown",
        context=model.size("context_length"),
        names=_names(_texts(inputs), _texts(outputs)),
        configs=tuple(path for name in (GENAI_FILE, _CONFIG) if (path := inside_if_there(folder, name)) is not None),
        sizes=_sizes(model, decoder),
        stop_token_ids=_stop_tokens(model),
        sampling=_sampling(config.object("search") or JsonObject(GENAI_FILE, {})),
    )


def _part(config: JsonObject, key: str) -> JsonObject:
    found = config.object(key)
    if found is None:
        raise config.error(key, "an object")
    return found


def _sizes(model: JsonObject, decoder: JsonObject) -> dict[str, int]:
    """GenAI's builder leaves a head's size open in the graph."""
    places = {
        "num_kv_heads": (decoder, "num_key_value_heads"),
        "head_dim": (decoder, "head_size"),
        "vocab_size": (model, "vocab_size"),
    }
    return {name: part.size(key) for name, (part, key) in places.items() if key in part}


def _texts(config: JsonObject) -> dict[str, str]:
    return {key: value for key in config.values if (value := config.text(key)) is not None}


def _names(inputs: dict[str, str], outputs: dict[str, str]) -> dict[str, str]:
    """Theirs -> ours; GenAI's own defaults are our names."""
    names = {inputs.get(name, name): name for name in (graph_io.INPUT_IDS, ATTENTION_MASK, POSITION_IDS)}
    for kind in ("key", "value"):
        past, present = f"past_key_values.%d.{kind}", f"present.%d.{kind}"
        names[inputs.get(f"past_{kind}_names", past)] = past
        names[outputs.get(f"present_{kind}_names", present)] = present
    return names | {outputs.get(graph_io.LOGITS, graph_io.LOGITS): graph_io.LOGITS}


def _stop_tokens(model: JsonObject) -> tuple[int, ...]:
    value = model.values.get("eos_token_id")
    ids = value if isinstance(value, list) else [] if value is None else [value]
    if not all(type(index) is int for index in ids):
        raise model.error("eos_token_id", "a token id or a list of them")
    return tuple(ids)


def _sampling(search: JsonObject) -> dict[str, Any]:
    """GenAI's search options by the names of ``generation_config.json``; without ``do_sample`` it is greedy."""
    if "do_sample" not in search:
        return {}
    if not search.flag("do_sample", default=False):
        return {"temperature": 0.0}
    wanted = {"temperature": 0.0, "top_p": 0.0, "repetition_penalty": 0.0}
    values: dict[str, Any] = {key: search.number(key) for key in wanted if key in search}
    return values | ({"top_k": search.size("top_k")} if search.values.get("top_k") else {})
