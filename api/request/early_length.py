"""Refusing a prompt that cannot fit before any work is done on it. Knows texts' lengths only, no template.

The text of a conversation bounds its prompt from below: templates add to it, and what published ones drop is white
space around a message and an assistant's earlier reasoning, which are not counted.
"""

from __future__ import annotations

from runtime.request import resolve_max_tokens

from api.request.chat import ChatRequest
from api.request.messages import AssistantMessage, text_of
from api.request.sampling_fields import SamplingFields
from api.served_model import ServedModel


def check_length(fields: ChatRequest, model: ServedModel) -> None:
    """Raise ContextLengthError when the messages alone are surely longer than the model's context."""
    if fields.chat_template is not None:
        return
    contents = [message.content for message in fields.messages if not isinstance(message, AssistantMessage)]
    text = "".join(text_of(content).strip() for content in contents)
    check_text(text, fields, model, asked=fields.asked_max_tokens)


def check_text(text: str, fields: SamplingFields, model: ServedModel, *, asked: int | None) -> None:
    """Raise ContextLengthError when a text that stands in the prompt is surely longer than the model's context.

    ``asked`` are the tokens asked for, which the error names.
    """
    if fields.truncate_prompt_tokens is None and (fewest := model.tokenizer.fewest_tokens(text)) > model.max_model_len:
        resolve_max_tokens(fewest, asked, model.max_model_len)
