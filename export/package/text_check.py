"""Whether a checkpoint's text files fit its weights and can serve a chat, before anything large is built."""

from __future__ import annotations

from contextlib import closing, nullcontext

from runtime.errors import TemplateError
from runtime.text.chat_template import ChatTemplate
from runtime.text.template.process import TemplateWorker
from tokenizers import Tokenizer

from export.checkpoint.checkpoint import TextFiles
from export.errors import SourceError


def check_text_files(text: TextFiles, vocab_size: int, worker: TemplateWorker | None = None) -> None:
    """Raise SourceError if the tokenizer outgrows the embedding or the chat template cannot render a first turn.

    The template runs where a server runs it: in a sealed process, with its limits; ``worker`` None starts one for it.
    """
    vocabulary = Tokenizer.from_str(text.tokenizer_json).get_vocab()
    num_tokens = max(len(vocabulary), 1 + max(vocabulary.values(), default=0))
    if num_tokens > vocab_size:
        raise SourceError(
            f"the tokenizer has {num_tokens} tokens, the embedding has {vocab_size} rows; "
            "they belong to different models"
        )
    if any(not 0 <= index < vocab_size for index in text.stop_token_ids):
        raise SourceError(f"an end token lies outside the vocabulary of {vocab_size} tokens")
    if text.chat_template is None:
        return
    with closing(TemplateWorker()) if worker is None else nullcontext(worker) as rendering:
        try:
            template = ChatTemplate(text.chat_template, rendering)
            template.render([{"role": "user", "content": "Hello"}], server_texts=text.special_tokens)
        except TemplateError as error:
            raise SourceError(f"the checkpoint's chat template cannot render a first turn: {error}") from error
