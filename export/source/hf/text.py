"""The text files of a Hugging Face folder: tokenizer.json as it is, chat template, special and stop tokens.

Knows the spellings that these files have had over the years; reads no weights and runs no template.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from runtime.package.limits import MAX_TOKENIZER_BYTES
from tokenizers import Tokenizer

from export.checkpoint.checkpoint import TextFiles
from export.checkpoint.stop_tokens import end_of_turn_ids
from export.errors import SourceError
from export.source.hf.folder_file import inside_if_there
from export.source.hf.json_object import JsonObject, read_json_object

_TEMPLATE_MAX_BYTES = 2**20
_SPECIAL = ("bos_token", "eos_token", "unk_token", "pad_token")
_RECOMMENDED = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "bos_token_id", "pad_token_id")


def text_files_from_folder(folder: Path, vocab_size: int) -> TextFiles:
    """The texts for a model whose embedding has ``vocab_size`` rows.

    Raises SourceError if the tokenizer is missing, or a file is unreadable or a link out of the folder.
    """
    text, tokenizer = _tokenizer(folder, vocab_size)
    config = _optional(folder, "tokenizer_config.json")
    fallback = _optional(folder, "special_tokens_map.json")
    generation = _optional(folder, "generation_config.json")
    model = _optional(folder, "config.json")
    template = _template(folder, config)
    special = {
        key: token for key in _SPECIAL if (token := _token_text(config, key) or _token_text(fallback, key)) is not None
    }
    ids = [*_ids(generation, "eos_token_id"), *_ids(model, "eos_token_id")]
    if (inner := model.object("text_config")) is not None:
        ids += _ids(inner, "eos_token_id")
    ids += [index for index in [tokenizer.token_to_id(special.get("eos_token", ""))] if index is not None]
    added = {token.content: index for index, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    ids += end_of_turn_ids(template, added)
    return TextFiles(
        tokenizer_json=text,
        chat_template=template,
        special_tokens=special,
        stop_token_ids=tuple(sorted(set(ids))),
        generation={key: generation.values[key] for key in _RECOMMENDED if key in generation},
    )


def _optional(folder: Path, name: str) -> JsonObject:
    path = inside_if_there(folder, name)
    return JsonObject(name, {}) if path is None else read_json_object(path)


def _tokenizer(folder: Path, vocab_size: int) -> tuple[str, Tokenizer]:
    path = inside_if_there(folder, "tokenizer.json")
    if path is None:
        raise SourceError(
            f"tokenizer.json is missing in {folder}; write one with "
            "transformers' AutoTokenizer.from_pretrained(...).save_pretrained(...)"
        )
    try:
        if path.stat().st_size > MAX_TOKENIZER_BYTES:
            raise SourceError(f"tokenizer.json is larger than {MAX_TOKENIZER_BYTES} bytes, which no package may hold")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"tokenizer.json cannot be read ({error})") from error
    loaded = _loaded(text)
    kept = _without_rowless_tokens(text, vocab_size)
    return (text, loaded) if kept is text else (kept, _loaded(kept))


def _loaded(text: str) -> Tokenizer:
    try:
        return Tokenizer.from_str(text)
    except Exception as error:  # the library raises nothing more exact
        raise SourceError(f"tokenizer.json cannot be used ({error})") from error


def _without_rowless_tokens(text: str, vocab_size: int) -> str:
    """A tokenizer that loads, less the added tokens whose ids lie beyond the embedding; the same text without such.

    Gemma 3 1B comes with the tokenizer of its larger sisters and their token for a picture, id 262,144 of 262,144 rows.
    Such a token can be neither read nor written by the model, so its text is ordinary text.
    """
    data = json.loads(text)
    added = data.get("added_tokens") or []
    kept = [token for token in added if token["id"] < vocab_size]
    return text if len(kept) == len(added) else json.dumps(data | {"added_tokens": kept}, ensure_ascii=False)


def _template(folder: Path, config: JsonObject) -> str | None:
    """``chat_template.jinja``, else the config's text or its entry called ``default``, else ``chat_template.json``."""
    path = inside_if_there(folder, "chat_template.jinja")
    template: Any = None
    if path is not None:
        if path.stat().st_size > _TEMPLATE_MAX_BYTES:
            raise SourceError(f"chat_template.jinja is larger than {_TEMPLATE_MAX_BYTES} bytes")
        try:
            template = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise SourceError(f"chat_template.jinja cannot be read ({error})") from error
    elif isinstance(config.values.get("chat_template"), list):
        entries = [entry for entry in config.values["chat_template"] if isinstance(entry, dict)]
        template = next((entry.get("template") for entry in entries if entry.get("name") == "default"), None)
    else:
        template = config.text("chat_template") or _optional(folder, "chat_template.json").text("chat_template")
    if template is not None and (not isinstance(template, str) or len(template) > _TEMPLATE_MAX_BYTES):
        raise SourceError(f"the chat template is not text of at most {_TEMPLATE_MAX_BYTES} bytes")
    return template


def _token_text(config: JsonObject, key: str) -> str | None:
    """A special token, written as text or as an object with ``content``."""
    value = config.values.get(key)
    if isinstance(value, dict):
        value = value.get("content")
    if value is not None and not isinstance(value, str):
        raise config.error(key, "text")
    return value


def _ids(config: JsonObject, key: str) -> list[int]:
    value = config.values.get(key)
    ids = value if isinstance(value, list) else [] if value is None else [value]
    if not all(type(index) is int for index in ids):
        raise config.error(key, "a token id or a list of them")
    return ids
