"""Rendering of published models' own chat templates equals transformers', character by character.

The templates are fetched once; without a package index the tests are skipped. What transformers made of them is
committed (``tests/golden/real_templates/make.py``).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from runtime.errors import TemplateError
from runtime.package.manifest import CHAT_TEMPLATE_FILE, Package
from runtime.text.chat_template import ChatTemplate
from runtime.text.template.process import TemplateWorker
from tests.golden.real_templates.archive import TemplatesUnavailableError, fetch_templates
from tests.paths import ROOT

GOLDEN = json.loads((ROOT / "tests" / "golden" / "real_templates" / "prompts.json").read_text("utf-8"))
PACKAGED = "smollm2"
WORKER = TemplateWorker()
NOW = datetime.fromisoformat(GOLDEN["now"])


@pytest.fixture(scope="session")
def templates() -> Path:
    try:
        return fetch_templates(ROOT / "models" / ".cache")
    except TemplatesUnavailableError as error:
        pytest.skip(str(error))


def check(source: str, family: str) -> None:
    """Every case of a family: the same text, or an error where transformers has one."""
    assert hashlib.sha256(source.encode()).hexdigest() == GOLDEN["sha256"][family]
    template = ChatTemplate(source, WORKER, clock=lambda: NOW)
    prompts = [prompt for prompt in GOLDEN["prompts"] if prompt["family"] == family]
    assert len(prompts) == len(GOLDEN["cases"])
    wrong = [prompt["case"] for prompt in prompts if rendered(template, GOLDEN["cases"][prompt["case"]]) != of(prompt)]
    assert wrong == []


def of(prompt: Mapping[str, str]) -> str:
    """What transformers made: the text, the template's own complaint, or a failure whose words are Python's."""
    if prompt.get("raised", "TemplateError") != "TemplateError":
        return "failed"
    return prompt.get("text") or f"raised {prompt['error']}"


def rendered(template: ChatTemplate, case: Mapping[str, Any]) -> str:
    given = dict(case)
    arguments = {name: given.pop(name) for name in ("tools", "documents", "add_generation_prompt") if name in given}
    messages = given.pop("messages")
    try:
        return template.render(messages, server_texts=GOLDEN["special_tokens"], variables=given, **arguments).text
    except TemplateError as error:
        return "failed" if str(error).startswith("the chat template failed: ") else f"raised {error}"


@pytest.mark.parametrize("family", GOLDEN["files"])
def test_rendering_equals_transformers(templates: Path, family: str) -> None:
    check((templates / GOLDEN["files"][family]).read_text("utf-8"), family)


@pytest.mark.model
def test_rendering_of_the_default_model_equals_transformers(default_package: Package) -> None:
    check(default_package.read_text(CHAT_TEMPLATE_FILE), PACKAGED)


def test_every_template_of_the_collection_compiles(templates: Path) -> None:
    sources = sorted(templates.glob("*.jinja"))
    assert len(sources) > 60
    for source in sources:
        ChatTemplate(source.read_text("utf-8"), WORKER).prove()
