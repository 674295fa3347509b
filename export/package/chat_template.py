"""A chat template that a recipe names in place of the checkpoint's: read, and put among the text files.

Knows files and token texts; whether the template can render a turn is ``text_check``'s.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from tokenizers import Tokenizer

from export.checkpoint.checkpoint import TextFiles
from export.checkpoint.stop_tokens import end_of_turn_ids
from export.errors import RecipeError
from export.source.recipe import Recipe

_MAX_BYTES = 2**20


def with_chosen_template(text: TextFiles, recipe: Recipe, base: Path) -> TextFiles:
    """``text`` with the recipe's chat template, if it names one, and the tokens that end a turn there.

    ``base`` is what the recipe's relative paths count from. Raises RecipeError for a file that cannot be one.
    """
    if recipe.chat_template is None:
        return text
    path = base / recipe.chat_template
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise RecipeError(f"chat_template: {path} is larger than {_MAX_BYTES} bytes")
        template = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"chat_template: {path} is not readable: {error}") from error
    added = Tokenizer.from_str(text.tokenizer_json).get_added_tokens_decoder()
    special = {token.content: index for index, token in added.items() if token.special}
    stop = {*text.stop_token_ids, *end_of_turn_ids(template, special)}
    return dataclasses.replace(text, chat_template=template, stop_token_ids=tuple(sorted(stop)))
