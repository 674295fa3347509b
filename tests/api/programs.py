"""The model of ``tests.api.scripted_server``: its tokens, its templates, and a script that does what a message says.

The last user message is the model's program:

=============  =====================================================================
``text``       say the text, byte by byte, then end
``#1,2,3``     emit these token ids, then end
``*text``      say the text over and over
``?``          draw letters a to z, all equally likely, without end
``!3:text``    say the text, but fail before token 3 (counted from 0)
``~``          love white space above all else, and end tokens least
``%``          anything, by chance that is the same for the same history
=============  =====================================================================
"""

from __future__ import annotations

import re
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from runtime.errors import DeviceError
from runtime.text.token_bytes import byte_alphabet

IM_START, IM_END, CONTROL, TOOL_CALLS = 256, 257, 258, 280
PIECES = ("hello", " world", "gani", "vol", "unteer", " or", "zation", "stop", " STOP", "\n\n")
PIECE_IDS = {piece: 260 + position for position, piece in enumerate(PIECES)}
VOCAB_SIZE = 512
TEMPLATE = (
    "{% for message in messages %}"
    "{% if message.role == 'tool' %}{{ raise_exception('No tools here') }}{% endif %}"
    "<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TOOL_TEMPLATE = (
    '{% if tools %}<|im_start|>system\n{{ tools | tojson }} <tool_call>{"name": ..., "arguments": ...}</tool_call>'
    "<|im_end|>\n{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}"
    "{% for call in message.tool_calls or [] %}<tool_call>{{ call.function | tojson }}</tool_call>{% endfor %}"
    "<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined %}{{ '<think>\n' if enable_thinking else '<think>\n\n</think>\n\n' }}{% endif %}"
    "{% endif %}"
)
"""Of a model that knows tools in Hermes's form and reasoning sections."""
_ASSISTANT = list(b"assistant\n")


def tokenizer_json() -> bytes:
    """A byte-level tokenizer: ids 0..255 are the bytes, then control tokens, then pieces that text never encodes to."""
    characters = {byte: character for character, byte in byte_alphabet().items()}
    vocab = {characters[byte]: byte for byte in range(256)}
    specials = {"<|im_start|>": IM_START, "<|im_end|>": IM_END, "<|control|>": CONTROL, "[TOOL_CALLS]": TOOL_CALLS}
    vocab |= specials
    vocab |= {"".join(characters[byte] for byte in piece.encode()): token_id for piece, token_id in PIECE_IDS.items()}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    document: dict[str, Any] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": token_id, "content": content, **flags} for content, token_id in specials.items()],
        "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "vocab": vocab, "merges": [],
        },
    }  # fmt: skip
    return msgspec.json.encode(document)


def model_script(history: list[int]) -> int | NDArray[np.float32]:
    """The next token after a slot's whole history."""
    program, done = _program(history)
    done = max(0, done)  # a prompt may end before the assistant's turn begins
    if program.startswith(b"?"):
        logits = np.full(VOCAB_SIZE, -30.0, np.float32)
        logits[ord("a") : ord("z") + 1] = 0.0
        return logits
    if program.startswith(b"~"):
        logits = np.zeros(VOCAB_SIZE, np.float32)
        logits[[ord(character) for character in " \n\t\r"]] = 30.0
        logits[IM_END] = -30.0
        return logits
    if program.startswith(b"%"):
        logits = np.random.default_rng([len(history), *history[-4:]]).normal(0, 3, VOCAB_SIZE).astype(np.float32)
        logits[[IM_END, *b'"}]<>']] += 4
        return logits
    if re.fullmatch(rb"#\d+(,\d+)*", program):
        tokens = [int(part) % VOCAB_SIZE for part in program[1:].split(b",")]
    elif program.startswith(b"*") and len(program) > 1:
        return program[1 + done % (len(program) - 1)]
    elif failing := re.fullmatch(rb"!(\d+):(.*)", program, re.DOTALL):
        if done == int(failing[1]):
            raise DeviceError("scripted failure")
        tokens = list(failing[2])
    else:
        tokens = list(program)
    return tokens[done] if done < len(tokens) else IM_END


def _program(history: list[int]) -> tuple[bytes, int]:
    """The program and how many tokens were generated; a raw prompt is a program up to its first line feed."""
    if IM_START not in history:
        end = history.index(10) + 1 if 10 in history else len(history)
        return _text(history[: end - 1]), len(history) - end
    last = len(history) - 1 - history[::-1].index(IM_START)
    user = b"user\n"
    starts = [place for place, token in enumerate(history[:last]) if token == IM_START]
    programs = [_text(history[start + 1 : _next_end(history, start)]) for start in starts]
    mine = [program.removeprefix(user) for program in programs if program.startswith(user)]
    return (mine[-1] if mine else b""), len(history) - last - 1 - len(_ASSISTANT)


def _next_end(history: list[int], start: int) -> int:
    """Where the turn that starts at ``start`` ends; a truncated prompt may have lost its end."""
    return next((place for place in range(start, len(history)) if history[place] == IM_END), len(history))


def _text(tokens: list[int]) -> bytes:
    return bytes(token for token in tokens if token < 256)
