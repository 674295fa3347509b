"""Which format a model's calls are in, proven on what published templates make of calls in earlier turns."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from runtime.errors import PowertrainError, UnknownParser
from runtime.text.chat_template import ChatTemplate
from runtime.text.reasoning.forms import FORMS, detect_reasoning
from runtime.text.template.process import TemplateWorker
from runtime.text.tool_calls.generic import call_text, result_text, tools_prompt
from runtime.text.tool_calls.selection import FORMATS, by_name, detect
from runtime.text.tool_calls.tool import Tool
from tests.golden.real_templates.archive import TemplatesUnavailableError, fetch_templates
from tests.paths import ROOT
from tests.runtime.text.tool_calls.answers import NOW, WEATHER, Answer, call, parsed

GOLDEN = json.loads((ROOT / "tests" / "golden" / "real_templates" / "prompts.json").read_text("utf-8"))
_WEATHER = {"city": "Zürich <x>", "days": 2, "ratio": 0.5, "exact": True, "none": None}
# Family -> its format, what precedes an assistant's turn in a prompt, and what ends the turn.
_TURNS = {
    "llama3_1": ("llama3_json", "<|start_header_id|>assistant<|end_header_id|>\n\n", "<|eot_id|>"),
    "llama3_2": ("llama3_json", "<|start_header_id|>assistant<|end_header_id|>\n\n", "<|eot_id|>"),
    "llama3_3": ("llama3_json", "<|start_header_id|>assistant<|end_header_id|>\n\n", "<|eot_id|>"),
    "qwen2_5": ("hermes", "<|im_start|>assistant\n", "<|im_end|>"),
    "qwen3": ("hermes", "<|im_start|>assistant\n", "<|im_end|>"),
    "qwq": ("hermes", "<|im_start|>assistant\n", "<|im_end|>"),
    "granite4": ("hermes", "<|start_of_role|>assistant<|end_of_role|>", "<|end_of_text|>"),
    "qwen3_coder": ("qwen3_coder", "<|im_start|>assistant\n", "<|im_end|>"),
    "nemotron3": ("qwen3_coder", "<|im_start|>assistant\n<think></think>", "<|im_end|>"),
    "mistral_nemo": ("mistral_json", "[/INST]", "</s>"),
    "mistral_small_3_2": ("mistral", "[/INST]", "</s>"),
}
_FORMATS = {
    **{family: turn[0] for family, turn in _TURNS.items()},
    "gemma2": "generic",
    "phi3_5": "generic",
    "smollm3": "generic",
    "granite3_3": "granite",
    "deepseek_r1_llama": "deepseek_v3",
    "gpt_oss": "generic",
}
_REASONING = {
    **dict.fromkeys(("qwen3", "qwq", "smollm3", "granite3_3", "deepseek_r1_llama", "nemotron3"), "think"),
    **dict.fromkeys(_FORMATS.keys() - {"qwen3", "qwq", "smollm3", "granite3_3", "deepseek_r1_llama", "nemotron3"}),
    "gpt_oss": "gpt_oss",
}


def turn(family: str, case: str) -> str | None:
    """The text of the assistant's turn that calls, as a published template wrote it."""
    prompt = next(each for each in GOLDEN["prompts"] if each["family"] == family and each["case"] == case)
    if "text" not in prompt:
        return None  # the template takes one call at a time
    _, begin, end = _TURNS[family]
    start = prompt["text"].index(begin) + len(begin)
    text: str = prompt["text"][start : prompt["text"].index(end, start)]
    return text


@pytest.mark.parametrize("family", _TURNS)
@pytest.mark.parametrize("case", ["tool_answer", "tool_answers_and_more"])
def test_calls_are_read_as_published_templates_write_them(family: str, case: str) -> None:
    text = turn(family, case)
    if text is None:
        assert family.startswith("llama")
        return
    several = case == "tool_answers_and_more"
    answer = parsed(_TURNS[family][0], text)
    assert [name for name, _ in answer.calls] == ["get_weather", "now"][: 1 + several]
    assert [json.loads(arguments) for _, arguments in answer.calls] == [
        _WEATHER if _TURNS[family][0] != "qwen3_coder" else {**_WEATHER, "ratio": "0.5", "none": "None"},
        {},
    ][: 1 + several]
    assert answer.content in {"Let me see.", ""}


@pytest.fixture(scope="module")
def templates() -> Path:
    try:
        return fetch_templates(ROOT / "models" / ".cache")
    except TemplatesUnavailableError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("family", GOLDEN["files"])
def test_a_published_template_shows_its_format(templates: Path, family: str) -> None:
    source = (templates / GOLDEN["files"][family]).read_text("utf-8")
    form = detect_reasoning(source)
    assert (detect(source).name, form and form.name) == (_FORMATS[family], _REASONING[family])
    template = ChatTemplate(source, TemplateWorker())
    assert template.knows_tools is (family not in {"gemma2", "phi3_5", "smollm3", "deepseek_r1_llama"})


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("", "generic"),
        ("{% for message in messages %}", "generic"),
        ("[TOOL_CALLS]' + name + '[ARGS]'", "mistral"),
        ("[TOOL_CALLS][", "mistral_json"),
        ("<tool_call>\\n<function=a>", "qwen3_coder"),
        ("<function=a>{}</function>", "generic"),
        ("<tool_call>' + name + '<arg_key>' \"arguments\"", "generic"),
        ('<tool_call>\\n{"name": "arguments": "arguments"', "hermes"),
        ("'<start_function_call>call:'", "functiongemma"),
        ("'<|tool_call>call:' '<|\"|>'", "gemma4"),
        ("<|tool_call_start|>[", "lfm2"),
        ("<|python_start|>", "llama4_pythonic"),
        ("```tool_code\n", "tool_code"),
        ("Respond in the format [func_name1(params_name1=1)]", "pythonic"),
        ("functools[{", "phi4_mini_json"),
        ("<|tool|>' + tools + '<|/tool|>", "phi4"),
        ("respond only with <|tool_call|> followed by", "granite"),
        ("<｜tool▁calls▁begin｜> ```json", "deepseek_v3"),
        ("<｜tool▁calls▁begin｜>", "deepseek_v31"),
        ("<|python_tag|>", "llama3_json"),
    ],
)
def test_marks_tell_the_format(source: str, name: str) -> None:
    assert detect(source) is FORMATS[name]


@pytest.mark.parametrize(
    ("name", "format_name"),
    [("hermes", "hermes"), ("qwen3_xml", "qwen3_coder"), ("llama4_json", "llama3_json"), ("granite4", "hermes")],
)
def test_a_format_has_the_names_that_are_known(name: str, format_name: str) -> None:
    assert by_name(name) is FORMATS[format_name]


def test_mistral_means_the_form_that_the_template_shows() -> None:
    assert by_name("mistral", "[TOOL_CALLS][") is FORMATS["mistral_json"]
    assert by_name("mistral", "[TOOL_CALLS]a[ARGS]") is FORMATS["mistral"]
    assert by_name("mistral") is FORMATS["mistral"]


def test_an_unknown_name_is_answered_with_the_known_ones() -> None:
    with pytest.raises(UnknownParser, match=r"parser 'hermse'; there are: .*granite.*Did you mean 'hermes'"):
        by_name("hermse")
    with pytest.raises(PowertrainError) as raised:
        by_name("x" * 1000)
    assert len(str(raised.value)) < 600


def test_marks_that_may_be_control_tokens_are_data() -> None:
    assert by_name("hermes").control_texts == ("<tool_call>", "</tool_call>")
    assert set(by_name("mistral").control_texts) == {"[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"}
    assert set(FORMS["mistral"].control_texts) == {"[THINK]", "[/THINK]"}


def test_the_generic_prompt_tells_every_tool_and_asks_for_what_is_read() -> None:
    tools = [WEATHER, NOW, Tool('odd"name')]
    prompt = tools_prompt(tools, ["The weather, <now>", "", "x"])
    lines = prompt.partition("<tools>\n")[2].partition("\n</tools>")[0].splitlines()
    told = [json.loads(line) for line in lines]
    assert [each["name"] for each in told] == [tool.name for tool in tools]
    assert [each["parameters"] for each in told] == [json.loads(tool.parameters) for tool in tools]
    assert [each.get("description") for each in told] == ["The weather, <now>", None, "x"]
    assert "<tool_call>" in prompt
    assert parsed("generic", call_text("now", '{"a":1}')) == Answer("", [call('{"a":1}', "now")])
    assert parsed("generic", prompt).calls == []
    assert result_text("12 °C") == "<tool_response>\n12 °C\n</tool_response>"
