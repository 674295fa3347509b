"""Bodies made to cost a server as much as they can, each as large as it lets in. Builds bytes, sends nothing."""

from __future__ import annotations

from dataclasses import dataclass

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
RENDER, TOKENIZE, DETOKENIZE = CHAT + "/render", "/tokenize", "/detokenize"
_MESSAGES = b'{"messages":[{"role":"user","content":"ok"}],"max_tokens":1'
_PROMPT = b'{"prompt":"ok","max_tokens":1'
_TOO_MUCH = b'{"max_tokens":1000000,'  # refused when the prompt is known: all of the work and none of the model's


@dataclass(frozen=True, slots=True)
class NastyBody:
    """One request. ``name`` says what is too much in it."""

    name: str
    path: str
    body: bytes


@dataclass(frozen=True, slots=True)
class _Filler:
    """Repeats a unit between a head and a tail until ``limit_bytes`` are full; ``numbered`` units hold a ``%d``."""

    limit_bytes: int

    def filled(self, name: str, path: str, head: bytes, unit: bytes, tail: bytes, glue: bytes = b"") -> NastyBody:
        count = (self.limit_bytes - len(head) - len(tail)) // len(unit + glue)
        return NastyBody(name, path, head + glue.join([unit] * count) + tail)

    def numbered(self, name: str, path: str, head: bytes, unit: bytes, tail: bytes) -> NastyBody:
        count = (self.limit_bytes - len(head) - len(tail)) // (len(unit) + 6)
        return NastyBody(name, path, head + b",".join(unit % number for number in range(count)) + tail)


def nasty_bodies(limit_bytes: int) -> list[NastyBody]:
    """Every kind, filled up to ``limit_bytes``."""

    fill = _Filler(limit_bytes)
    return [*_texts(fill), *_structures(fill), *_fields(fill)]


def _texts(fill: _Filler) -> list[NastyBody]:
    user = _TOO_MUCH + b'"messages":[{"role":"user","content":"'
    return [
        fill.filled("completion of digits", COMPLETIONS, _TOO_MUCH + b'"prompt":"', b"1234567890", b'"}'),
        fill.filled("completion of one letter", COMPLETIONS, _TOO_MUCH + b'"prompt":"', b"a", b'"}'),
        fill.filled("completion of spaces", COMPLETIONS, _TOO_MUCH + b'"prompt":"', b" ", b'"}'),
        fill.filled("completion of emoji", COMPLETIONS, _TOO_MUCH + b'"prompt":"', "\U0001f600".encode(), b'"}'),
        fill.filled("completion of control tokens", COMPLETIONS, _TOO_MUCH + b'"prompt":"', b"<|im_end|>", b'"}'),
        fill.filled(
            "completion that is cut", COMPLETIONS, _TOO_MUCH + b'"truncate_prompt_tokens":4,"prompt":"', b"12", b'"}'
        ),
        fill.filled("completion of escapes", COMPLETIONS, _TOO_MUCH + b'"prompt":"', rb"\u0041", b'"}'),
        fill.filled("completion of quotes", COMPLETIONS, _TOO_MUCH + b'"prompt":"', rb"\"", b'"}'),
        fill.filled("completion of commas", COMPLETIONS, _TOO_MUCH + b'"prompt":"', b",", b'"}'),
        fill.filled("chat of digits", CHAT, user, b"1234567890", b'"}]}'),
        fill.filled("chat of control tokens", CHAT, user, b"<|im_end|>", b'"}]}'),
        fill.filled("chat that is cut", CHAT, user, b"a b ", b'"}],"truncate_prompt_tokens":4}'),
        fill.filled("render of words", RENDER, user, b"the fox ", b'"}]}'),
        fill.filled("tokenize digits", TOKENIZE, b'{"prompt":"', b"1234567890", b'"}'),
        fill.filled("tokenize with names", TOKENIZE, b'{"return_token_strs":true,"prompt":"', b"a b ", b'"}'),
        fill.filled("tokenize a chat", TOKENIZE, user, b"a b ", b'"}]}'),
        fill.filled("detokenize", DETOKENIZE, b'{"tokens":[', b"65", b"]}", b","),
    ]


def _structures(fill: _Filler) -> list[NastyBody]:
    calls = b'{"max_tokens":1,"messages":[{"role":"assistant","tool_calls":['
    call = b'{"function":{"name":"f","arguments":"'
    return [
        fill.filled("empty lists", CHAT, _MESSAGES + b',"x":[', b"[]", b"]}", b","),
        fill.filled("empty objects", CHAT, _MESSAGES + b',"chat_template_kwargs":{"a":[', b"{}", b"]}}", b","),
        fill.filled("zeros", CHAT, _MESSAGES + b',"x":[', b"0", b"]}", b","),
        fill.filled("empty strings", CHAT, _MESSAGES + b',"x":[', b'""', b"]}", b","),
        fill.filled("depth", CHAT, _MESSAGES + b',"x":', b"[", b""),
        fill.filled("one long number", CHAT, _MESSAGES + b',"seed":', b"9", b"}"),
        fill.filled("one key again and again", CHAT, _MESSAGES, b',"x":1', b"}"),
        fill.filled("text that ends too early", CHAT, _MESSAGES + b',"x":"', b"y", b""),
        fill.numbered("unknown keys", CHAT, _MESSAGES + b",", b'"k%d":1', b"}"),
        fill.numbered("unknown extensions", CHAT, _MESSAGES + b',"nvext":{', b'"k%d":1', b"}}"),
        fill.numbered("a large ignored object", CHAT, _MESSAGES + b',"metadata":{', b'"k%d":"v"', b"}}"),
        fill.filled(
            "empty messages", CHAT, b'{"max_tokens":1,"messages":[', b'{"role":"user","content":""}', b"]}", b","
        ),
        fill.filled(
            "parts", CHAT, b'{"messages":[{"role":"user","content":[', b'{"type":"text","text":""}', b"]}]}", b","
        ),
        fill.filled("documents", CHAT, _MESSAGES + b',"documents":[', b'{"a":"b"}', b"]}", b","),
        fill.filled("tool calls", CHAT, calls, call + b'{}"}}', b"]}]}", b","),
        fill.filled("wide arguments", CHAT, calls + call + b"[", b"[],", b'1]"}}]}]}'),
        NastyBody("deep arguments", CHAT, calls + call + b"[" * 500 + b"]" * 500 + b'"}}]}]}'),
    ]


def _fields(fill: _Filler) -> list[NastyBody]:
    word = b'"%s"' % (b"x1y2" * (fill.limit_bytes // 4200))
    return [
        fill.filled("prompts", COMPLETIONS, b'{"prompt":[', b'"a"', b"]}", b","),
        fill.filled("lists of token ids", COMPLETIONS, b'{"prompt":[', b"[65]", b"]}", b","),
        fill.filled("token ids", COMPLETIONS, b'{"prompt":[', b"65", b"]}", b","),
        fill.filled("token ids as floats", COMPLETIONS, b'{"prompt":[', b"65.0", b"]}", b","),
        fill.filled("128 prompts", COMPLETIONS, b'{"prompt":["a' + b'","a' * 127, b"1234", b'"]}'),
        fill.filled("long bad words", COMPLETIONS, _PROMPT + b',"bad_words":[', word, b"]}", b","),
        fill.filled(
            "bad words at the limit", COMPLETIONS, _PROMPT + b',"bad_words":[', b'"%s"' % (b"1" * 255), b"]}", b","
        ),
        fill.filled("stop strings", CHAT, _MESSAGES + b',"stop":[', b'"a"', b"]}", b","),
        fill.filled("one long stop string", CHAT, _MESSAGES + b',"stop":"', b"a", b'"}'),
        fill.numbered("biases", CHAT, _MESSAGES + b',"logit_bias":{', b'"%d":1', b"}}"),
        fill.filled("stop token ids", CHAT, _MESSAGES + b',"stop_token_ids":[', b"65", b"]}", b","),
        fill.filled("allowed token ids", CHAT, _MESSAGES + b',"allowed_token_ids":[', b"65", b"]}", b","),
        fill.filled("one long model name", CHAT, _MESSAGES + b',"model":"', b"m", b'"}'),
    ]
