"""The clients that are tried: what each is called, where its script and its environment are. Knows not how they run."""

from __future__ import annotations

import json
from dataclasses import dataclass

from tests.paths import ROOT

SCRIPTS = ROOT / "tests" / "clients"
REQUIREMENTS = SCRIPTS / "requirements"
NODE = "node"
"""The one environment that is a folder of Node's packages."""


@dataclass(frozen=True, slots=True)
class Client:
    """One row of the table. ``package`` is the one whose version is shown; ``remark`` is what a reader should know."""

    title: str
    script: str
    environment: str
    package: str
    tried: str
    remark: str = ""

    def version(self) -> str:
        """The pinned version of the client's package."""
        if self.environment == NODE:
            pins: dict[str, str] = json.loads((REQUIREMENTS / "node.json").read_text(encoding="utf-8"))["dependencies"]
            return pins[self.package]
        lines = (REQUIREMENTS / f"{self.environment}.txt").read_text(encoding="utf-8").splitlines()
        return {name.partition("[")[0]: version for name, _, version in (line.partition("==") for line in lines)}[
            self.package
        ]


CLIENTS = (
    Client("openai, Python", "openai_python", "openai", "openai", "chat, responses, `.parse`, `.stream`"),
    Client("openai, Node", "openai_node", NODE, "openai", "chat, responses, `.parse`"),
    Client(
        "LangChain, ChatOpenAI",
        "langchain_openai",
        "langchain",
        "langchain-openai",
        "`with_structured_output` by its three methods, `bind_tools`",
        "`bind_tools` sends schemas without `additionalProperties`, so arguments may hold more keys than they name",
    ),
    Client(
        "LangChain, ChatNVIDIA",
        "langchain_nvidia",
        "langchain",
        "langchain-nvidia-ai-endpoints",
        "`with_structured_output` of a model, a schema and an enum, `bind_tools`",
        "ignores `method`; raises bare `Exception`; `bind_tools` as above",
    ),
    Client(
        "LiteLLM",
        "litellm_providers",
        "litellm",
        "litellm",
        "`openai/`, `nvidia_nim/`, `hosted_vllm/`",
        "`hosted_vllm/` leaves `additionalProperties` out of tools: arguments may hold more keys",
    ),
    Client(
        "LlamaIndex, OpenAILike",
        "llama_index_like",
        "llama_index",
        "llama-index-llms-openai-like",
        "`as_structured_llm`, `chat_with_tools`",
        "needs `should_use_structured_outputs=True`, `is_function_calling_model=True`",
    ),
    Client(
        "pydantic-ai",
        "pydantic_ai_agent",
        "pydantic_ai",
        "pydantic-ai-slim",
        "`NativeOutput`, `ToolOutput`, a tool that runs",
    ),
    Client(
        "instructor",
        "instructor_openai",
        "instructor",
        "instructor",
        "modes `JSON_SCHEMA` and `TOOLS`, `create_partial`",
        "does nothing but structured answers; wraps the error in its own",
    ),
    Client("Haystack", "haystack_generator", "haystack", "haystack-ai", "`OpenAIChatGenerator`"),
    Client(
        "Vercel AI SDK",
        "ai_sdk",
        NODE,
        "ai",
        "`generateText`, `streamText`, `generateObject`, tools; providers `openai-compatible` and `openai`",
        "`openai` needs `store: false` from the second turn on; the newest that Node 20 takes",
    ),
    Client(
        "openai-agents",
        "openai_agents_runner",
        "openai_agents",
        "openai-agents",
        "responses and chat, `Runner.run`, `run_streamed`, output types, tools",
        "an answer that `max_tokens` cuts is an exception at responses",
    ),
    Client("anthropic", "anthropic_python", "anthropic", "anthropic", "`/v1/messages`, `count_tokens`"),
    Client(
        "AIPerf",
        "aiperf_profile",
        "aiperf",
        "aiperf",
        "eight chats, two at a time",
        "needs a tokenizer folder: its `builtin` one is downloaded",
    ),
    Client(
        "GuideLLM",
        "guidellm_run",
        "guidellm",
        "guidellm",
        "eight chats, two at a time",
        "its environment takes 5 GB",
    ),
    Client(
        "lm-eval",
        "lm_eval_tasks",
        "lm_eval",
        "lm-eval",
        "`local-chat-completions`, `local-completions`",
    ),
)
