"""Writes ``prompts.json``: what transformers' renderer makes of the chat templates that models are published with.

The templates belong to others and are not committed; ``archive.py`` fetches them. Run in an environment of its own
with ``transformers`` (tests never import it), from the project's root, after a run of
``tests/runtime/text/test_real_chat_templates.py`` has fetched the templates:

    python -m tests.golden.real_templates.make models/.cache/chat_templates-* models/smollm2-135m-instruct

The last argument is a built package, for the one template that the archive lacks.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

# Family -> file in the archive's folder of templates.
FILES = {
    "llama3_1": "meta-llama-Llama-3.1-8B-Instruct.jinja",
    "llama3_2": "meta-llama-Llama-3.2-3B-Instruct.jinja",
    "llama3_3": "meta-llama-Llama-3.3-70B-Instruct.jinja",
    "qwen2_5": "Qwen-Qwen2.5-7B-Instruct.jinja",
    "qwen3": "Qwen-Qwen3-0.6B.jinja",
    "qwq": "Qwen-QwQ-32B.jinja",
    "mistral_nemo": "mistralai-Mistral-Nemo-Instruct-2407.jinja",
    "mistral_small_3_2": "Mistral-Small-3.2-24B-Instruct-2506.jinja",
    "gemma2": "google-gemma-2-2b-it.jinja",
    "phi3_5": "microsoft-Phi-3.5-mini-instruct.jinja",
    "smollm3": "HuggingFaceTB-SmolLM3-3B.jinja",
    "granite3_3": "ibm-granite-granite-3.3-2B-Instruct.jinja",
    "granite4": "ibm-granite-granite-4.0.jinja",
    "deepseek_r1_llama": "deepseek-ai-DeepSeek-R1-Distill-Llama-8B.jinja",
    "gpt_oss": "openai-gpt-oss-120b.jinja",
    "qwen3_coder": "Qwen3-Coder.jinja",
    "nemotron3": "NVIDIA-Nemotron-3-Nano-30B-A3B-BF16.jinja",
}
PACKAGED = "smollm2"
NOW = datetime(2026, 3, 4, 5, 6, tzinfo=UTC)
SPECIAL_TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}

_TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": 'Weather <now> & "here", it\'s',
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"type": "string", "description": "Zürich 🏔"},
                    "days": {"type": "integer", "default": 3},
                    "unit": {"type": "string", "enum": ["c", "f"]},
                    "tags": {"type": "array", "items": {"type": "string"}},
                },
                "required": ["city"],
            },
        },
    },
    {
        "type": "function",
        "function": {"name": "now", "description": "The time", "parameters": {"type": "object", "properties": {}}},
    },
]


def _say(role: str, content: str, **extra: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **extra}


def _call(call_id: str, name: str, **arguments: Any) -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


_WEATHER_CALL = _call("abc123def", "get_weather", city="Zürich <x>", days=2, ratio=0.5, exact=True, none=None)
_THOUGHT = "<think>\nhm\n</think>\n\nb"
CASES: dict[str, dict[str, Any]] = {
    "question": {"messages": [_say("user", "Hello, 你好 <b>&'\"\u2028👩‍👩‍👧")]},
    "system": {"messages": [_say("system", "Be brief.\n"), _say("user", " hi ")]},
    "empty_system": {"messages": [_say("system", ""), _say("user", "a")]},
    "turns": {"messages": [_say("user", "a\n"), _say("assistant", " b "), _say("user", "c\r\n\td")]},
    "system_turns": {
        "messages": [_say("system", "s"), _say("user", "a"), _say("assistant", "b"), _say("user", "{{ 1 }}")]
    },
    "no_generation_prompt": {
        "messages": [_say("user", "a"), _say("assistant", "b")],
        "add_generation_prompt": False,
    },
    "thoughts": {"messages": [_say("user", "a"), _say("assistant", _THOUGHT), _say("user", "c")]},
    "last_thoughts": {"messages": [_say("user", "a"), _say("assistant", _THOUGHT)], "add_generation_prompt": False},
    "reasoning_content": {
        "messages": [_say("user", "a"), _say("assistant", "b", reasoning_content="\nhm"), _say("user", "c")]
    },
    "thinking_off": {"messages": [_say("user", "a")], "enable_thinking": False},
    "thinking_on": {"messages": [_say("system", "/no_think s"), _say("user", "a")], "enable_thinking": True},
    "wrong_order": {"messages": [_say("user", "a"), _say("user", "b")]},
    "late_system": {"messages": [_say("user", "a"), _say("assistant", "b"), _say("system", "s"), _say("user", "c")]},
    "tools": {"messages": [_say("user", "w?")], "tools": _TOOLS},
    "system_tools": {"messages": [_say("system", "s"), _say("user", "w?")], "tools": _TOOLS},
    "tool_answer": {
        "messages": [
            _say("user", "w?"),
            _say("assistant", "", tool_calls=[_WEATHER_CALL]),
            _say("tool", '{"degrees": 12}', tool_call_id="abc123def", name="get_weather"),
        ],
        "tools": _TOOLS,
    },
    "tool_answers_and_more": {
        "messages": [
            _say("user", "w?"),
            _say("assistant", "Let me see.", tool_calls=[_WEATHER_CALL, _call("abc123deg", "now")]),
            _say("tool", "12 °C", tool_call_id="abc123def", name="get_weather"),
            _say("tool", "13:00", tool_call_id="abc123deg", name="now"),
            _say("assistant", "12 °C at one."),
            _say("user", "thanks"),
        ],
        "tools": _TOOLS,
    },
    "documents": {
        "messages": [_say("user", "q")],
        "documents": [{"doc_id": 1, "title": "t", "text": "one"}, {"doc_id": 2, "title": "u", "text": "two"}],
    },
}


def main(archive: Path, package: Path) -> None:
    """Render every case with every template."""
    compile_template = importlib.import_module("transformers.utils.chat_template_utils")._compile_jinja_template
    sources = {family: (archive / name).read_text("utf-8") for family, name in FILES.items()}
    sources[PACKAGED] = (package / "chat_template.jinja").read_text("utf-8")
    prompts = []
    for family, source in sources.items():
        template = compile_template(source)
        for name, case in CASES.items():
            context = {"tools": None, "documents": None, "add_generation_prompt": True, **SPECIAL_TOKENS, **case}
            try:
                expected = {"text": template.render(strftime_now=NOW.strftime, **context)}
            except Exception as error:  # noqa: BLE001 - whatever a template raises is the expected outcome
                expected = {"raised": type(error).__name__, "error": str(error)}
            prompts.append({"family": family, "case": name, **expected})
    digests = {family: hashlib.sha256(source.encode()).hexdigest() for family, source in sources.items()}
    data = {"now": NOW.isoformat(), "special_tokens": SPECIAL_TOKENS, "cases": CASES, "files": FILES}
    text = json.dumps({**data, "sha256": digests, "prompts": prompts}, indent=1, ensure_ascii=False)
    (Path(__file__).parent / "prompts.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
