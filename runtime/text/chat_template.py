"""A model's chat template: messages in, prompt text out, and whose words the text is made of.

Owns how a conversation is handed to a template. Templates come with models, or even with requests, and are not trusted:
a process of its own renders them (``runtime.text.template``), with transformers' semantics and within limits. A
rendering names the characters that the template itself wrote; only those can become control tokens. Knows no
tokenizer, no request and no HTTP.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from datetime import datetime
from typing import Any

from runtime.errors import TemplateError
from runtime.text.template.process import TemplateWorker
from runtime.text.template.wire import RESERVED_NAMES, Job, Rendering

_BLOCK = re.compile(r"\{[{%](.*?)[%}]\}", re.DOTALL)
_LOOP_OVER_CONTENT = re.compile(
    r"""for\s+\w+\s+in\s+[\w.]*(?:\bcontent|\[['"]content['"]\])\s*(?:if\b.*)?""", re.DOTALL
)
_TEXT_OF_PART = re.compile(r"""\.text\b|\[['"]text['"]\]""")
_TESTS_STRINGS = re.compile(r"\bis\s+(?:not\s+)?string\b")
_TEXT = re.compile(r"'[^']*'|\"[^\"]*\"")


class ChatTemplate:
    """One template and the worker that renders it. Raises TemplateError when the source is too long.

    ``knows_tools``: it tells the model of the tools that it is given. ``knows_tool_turns``: it writes earlier calls and
    their results. ``knows_developer``: it knows that role. ``reads_parts``: it goes through a message's content part by
    part where that is a list; ``reads_parts_alone``: and knows no other content.

    Safe to use from any thread. ``prove`` says whether the source compiles; a rendering would say the same.
    """

    def __init__(
        self,
        source: str,
        worker: TemplateWorker,
        *,
        clock: Callable[[], datetime] = lambda: datetime.now().astimezone(),
    ) -> None:
        allowed = worker.limits.source_chars
        if len(source) > allowed:
            raise TemplateError(f"the chat template has {len(source)} characters, allowed are {allowed}")
        self.source = source
        self._clock = clock
        self.worker = worker
        self.knows_developer = "developer" in source
        blocks = _BLOCK.findall(source)
        self.knows_tools = any(re.search(r"\btools\b", _TEXT.sub("", block)) for block in blocks)
        self.reads_parts = bool(_TEXT_OF_PART.search(source)) and any(
            _LOOP_OVER_CONTENT.fullmatch(block.strip("-+ \n")) for block in blocks
        )
        self.reads_parts_alone = self.reads_parts and not _TESTS_STRINGS.search(source)
        self.knows_tool_turns = any(re.search(r"""tool_calls|'tool'|"tool\"""", block) for block in blocks)

    def submit_proof(self) -> Future[Rendering]:
        """A future that fails with TemplateError when the template cannot be compiled."""
        return self.worker.submit(Job(source=self.source, now=self._now()))

    def prove(self) -> None:
        """Raise TemplateError when the template cannot be compiled."""
        self.submit_proof().result()

    def submit(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        variables: Mapping[str, Any] | None = None,
        implied: Mapping[str, Any] | None = None,
        server_texts: Mapping[str, str] | None = None,
        tools: Sequence[Mapping[str, Any]] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
    ) -> Future[Rendering]:
        """A conversation's prompt text, in the future.

        ``variables`` are further names for the template, ``implied`` such as it gets only if it knows them.
        ``server_texts`` (``bos_token``, ...) are the server's own words; all other text comes from outside, but for
        the roles that the API itself names. ``continue_final_message`` ends the prompt where the last message's
        content ends. The future fails with TemplateError, in the template's own words when it calls
        ``raise_exception``. Raises Overloaded when too many renderings wait.
        """
        job = Job(
            source=self.source,
            now=self._now(),
            messages=[dict(message) for message in messages],
            tools=None if tools is None else list(tools),
            documents=None if documents is None else list(documents),
            variables={name: value for name, value in (variables or {}).items() if name not in RESERVED_NAMES},
            implied=dict(implied or {}),
            server_texts=dict(server_texts or {}),
            add_generation_prompt=add_generation_prompt,
            continue_final_message=continue_final_message,
        )
        return self.worker.submit(job)

    def render(self, messages: Sequence[Mapping[str, Any]], **arguments: Any) -> Rendering:  # noqa: ANN401 - as submit
        """``submit``, waiting for its result."""
        return self.submit(messages, **arguments).result()

    def _now(self) -> str:
        return self._clock().isoformat()
