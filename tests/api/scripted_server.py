"""A real server over a real socket whose model does what the user's message says.

Only the session is fake (``tests.fakes.ScriptedSession``); tokenizer, template, engine, scheduler, sampler, HTTP and
client are the real things. What the model says to which message is told in ``tests.api.programs``.
"""

from __future__ import annotations

import contextlib
import dataclasses
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import openai

from api.adapters import Adapters
from api.answer_formats import answer_formats
from api.clients.client import Clients
from api.controllers.registry import ModelRegistry
from api.controllers.service import Service
from api.observe.metrics import ServerMetrics
from api.process.launch import bind, engine_config
from api.process.server import Server
from api.request.reception import new_reception
from api.served_model import ServedModel
from api.server_settings import Settings
from api.settings_rules import check_settings
from runtime.constraint.compiler import ConstraintCompiler
from runtime.engine.async_engine import AsyncEngine
from runtime.package.generation_config import GenerationConfig
from runtime.text.chat_template import ChatTemplate
from runtime.text.template.process import TemplateWorker
from runtime.text.template.wire import TemplateLimits
from runtime.text.tokenizer import Tokenizer
from tests.api.programs import IM_END, TEMPLATE, VOCAB_SIZE, model_script, tokenizer_json
from tests.fakes import Call, ScriptedSession

MAX_MODEL_LEN = 256
NUM_SLOTS = 4
GUEST_QUEUE = 4
NAMES = ("test/scripted-model", "alias-name")


class _SharedWorker(TemplateWorker):
    """Renders all servers' templates in one process, which outlives each of them: starting one takes a while."""

    def close(self) -> None:
        """Nothing: the next server goes on with it."""


_WORKER = _SharedWorker()


@dataclasses.dataclass
class Gate:
    """Lets a test hold the engine thread before its next call. Closed gates open when the server stops."""

    open: threading.Event = dataclasses.field(default_factory=threading.Event)
    reached: threading.Event = dataclasses.field(default_factory=threading.Event)

    def __call__(self, _call: Call) -> None:
        self.reached.set()
        if not self.open.wait(timeout=60):
            raise RuntimeError("a test left the gate closed")


@dataclasses.dataclass
class RunningServer:
    """A served scripted model."""

    service: Service
    session: ScriptedSession
    gate: Gate
    server: Server
    base_url: str
    port: int
    http: httpx.Client
    management_port: int | None = None

    @property
    def openai(self) -> openai.OpenAI:
        """A fresh client as a user makes it; close it, or use it as a context manager."""
        return openai.OpenAI(base_url=f"{self.base_url}/v1", api_key="not-used", max_retries=0)

    def post(self, body: Any, path: str = "/v1/chat/completions", **options: Any) -> httpx.Response:
        """POST a JSON body, or raw bytes as they are."""
        content = body if isinstance(body, bytes) else msgspec.json.encode(body)
        headers = {"content-type": "application/json", **options.pop("headers", {})}
        return self.http.post(path, content=content, headers=headers, **options)

    def get(self, path: str, **options: Any) -> httpx.Response:
        """GET a path."""
        return self.http.get(path, **options)

    def chat(self, program: str, **fields: Any) -> dict[str, Any]:
        """The body of a successful plain answer to one user message."""
        response = self.post({"messages": [user(program)], **fields})
        assert response.status_code == 200, response.text
        return dict(response.json())

    def stream(self, program: str, **fields: Any) -> list[dict[str, Any]]:
        """The chunks of a stream; checks the framing and the end marker."""
        response = self.post({"messages": [user(program)], "stream": True, **fields})
        assert response.status_code == 200, response.text
        return chunks_of(response.content)

    def wait_idle(self) -> None:
        """Return when the engine has nothing left to do and no request is being handled.

        A client has its answer before the server has written the request's log line, counters and span.
        """

        def is_idle() -> bool:
            stats = self.service.engine.stats()
            engine_is_idle = self.service.engine.num_live == 0 and stats.num_running == 0 and stats.num_waiting == 0
            return engine_is_idle and not self.server.server_state.tasks

        self.wait_for(is_idle)

    def wait_for(self, condition: Callable[[], bool]) -> None:
        """Return as soon as ``condition`` holds."""
        deadline = time.monotonic() + 30
        while not condition():
            if time.monotonic() > deadline:
                raise AssertionError("the server did not get there")
            threading.Event().wait(0.005)

    def metric(self, name: str, **labels: str) -> float:
        """One sample's value; 0 when it does not exist yet."""
        labels = {"model_name": NAMES[0], **labels}
        return self.service.metrics.registry.get_sample_value(name, labels) or 0.0


def user(content: str) -> dict[str, str]:
    """One user message."""
    return {"role": "user", "content": content}


def token_counts(answer: dict[str, Any]) -> dict[str, int]:
    """The usage of an answer or chunk but for what the prefix cache had, which depends on who asked before."""
    return {name: count for name, count in answer["usage"].items() if name != "prompt_tokens_details"}


def chunks_of(body: bytes) -> list[dict[str, Any]]:
    """The JSON of a stream's events; every line must be strict UTF-8 and the stream must end with ``[DONE]``."""
    events = [event for event in body.split(b"\n\n") if event and not event.startswith(b":")]
    assert all(event.startswith(b"data: ") and b"\n" not in event for event in events)
    assert events[-1] == b"data: [DONE]"
    return [msgspec.json.decode(event.removeprefix(b"data: ").decode("utf-8")) for event in events[:-1]]


def content_of(chunks: list[dict[str, Any]], index: int = 0) -> str:
    """A choice's text: its deltas joined."""
    choices = [choice for chunk in chunks for choice in chunk["choices"] if choice["index"] == index]
    return "".join(choice["delta"].get("content", "") for choice in choices)


@contextlib.contextmanager
def running_server(
    *,
    gate_open: bool = True,
    wait_for: str | None = "/v1/health/ready",
    max_model_len: int = MAX_MODEL_LEN,
    template: str = TEMPLATE,
    load_error: str | None = None,
    defaults: GenerationConfig | None = None,
    template_limits: TemplateLimits | None = None,
    guest_limits: TemplateLimits | None = None,
    clients: Clients | None = None,
    adapters: Adapters | None = None,
    session_type: type[ScriptedSession] = ScriptedSession,
    ca: Path | None = None,
    **settings: Any,
) -> Iterator[RunningServer]:
    """Serve on a free port of this machine until the block ends."""
    chosen = dataclasses.replace(Settings(port=0, num_slots=NUM_SLOTS), **settings)
    check_settings(chosen)
    gate = Gate()
    if gate_open:
        gate.open.set()
    session = session_type(
        model_script, num_slots=NUM_SLOTS, max_model_len=max_model_len, vocab_size=VOCAB_SIZE, before_call=gate
    )

    def factory() -> ScriptedSession:
        if load_error is not None:
            raise RuntimeError(load_error)
        return session

    engine = AsyncEngine(factory, engine_config(chosen))
    model = scripted_model(
        chosen,
        max_model_len=max_model_len,
        template=template,
        defaults=defaults,
        template_limits=template_limits,
        guest_limits=guest_limits,
    )
    service = Service(
        settings=chosen,
        model=model,
        engine=engine,
        metrics=ServerMetrics(model.base_name, engine.stats, vllm_names=chosen.vllm_metrics),
        reception=new_reception(chosen, max_model_len),
        clients=clients or Clients(),
        adapters=adapters or Adapters(),
    )
    with listening(service, session, gate, ca=ca) as running:
        try:
            if wait_for is not None:
                _wait_until_answering(running, wait_for)
            yield running
        finally:
            gate.open.set()


def scripted_model(
    chosen: Settings,
    *,
    max_model_len: int = MAX_MODEL_LEN,
    template: str = TEMPLATE,
    defaults: GenerationConfig | None = None,
    template_limits: TemplateLimits | None = None,
    guest_limits: TemplateLimits | None = None,
) -> ServedModel:
    """The text side of a scripted model."""
    worker = _WORKER if template_limits is None else TemplateWorker(limits=template_limits)
    chat_template = ChatTemplate(template, worker)
    chat_template.prove()
    tokenizer = Tokenizer(tokenizer_json(), VOCAB_SIZE)
    return ServedModel(
        names=chosen.served_model_name or NAMES,
        created_unix=1_700_000_000,
        fingerprint="fp_0123456789",
        max_model_len=max_model_len,
        tokenizer=tokenizer,
        template=chat_template,
        eos_token_ids=frozenset({IM_END}),
        compiler=ConstraintCompiler(tokenizer.vocabulary({IM_END})),
        answers=answer_formats(chosen, chat_template, tokenizer),
        defaults=defaults or GenerationConfig(),
        license_name="Apache-2.0",
        license_text="Do as you please.\n",
        guest_worker=TemplateWorker(limits=guest_limits, queue=GUEST_QUEUE),
    )


@contextlib.contextmanager
def listening(
    service: Service,
    session: ScriptedSession,
    gate: Gate,
    *,
    models: ModelRegistry | None = None,
    ca: Path | None = None,
) -> Iterator[RunningServer]:
    """A server's thread from its start to its end."""
    chosen = service.settings
    sockets = [bind(chosen.host, 0) for port in (chosen.port, chosen.management_port) if port is not None]
    server = Server(service, models)
    thread = threading.Thread(target=server.run, kwargs={"sockets": sockets}, daemon=True)
    thread.start()
    port, *management = (int(sock.getsockname()[1]) for sock in sockets)
    base_url = f"{'http' if ca is None else 'https'}://127.0.0.1:{port}"
    verify = True if ca is None else ssl.create_default_context(cafile=str(ca))
    http = httpx.Client(base_url=base_url, verify=verify, timeout=30, limits=httpx.Limits(max_connections=None))
    try:
        yield RunningServer(service, session, gate, server, base_url, port, http, *management)
    finally:
        http.close()
        server.should_exit = True
        thread.join(timeout=20)
        for sock in sockets:
            sock.close()
        assert not thread.is_alive(), "the server did not stop"


def _wait_until_answering(server: RunningServer, path: str) -> None:
    def answers() -> bool:
        with contextlib.suppress(httpx.TransportError):
            return server.get(path).status_code == 200
        return False

    server.wait_for(answers)
