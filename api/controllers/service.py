"""What every handler works with: the engine, the model's text side, the operator's decisions, the metrics."""

from __future__ import annotations

from dataclasses import dataclass, field

from runtime.adapter import Adapter
from runtime.engine.async_engine import AsyncEngine, EngineState
from runtime.errors import EngineUnavailable

from api.adapters import Adapters
from api.clients.client import Clients
from api.observe.gpu_watch import GpuWatch
from api.observe.metrics import ServerMetrics
from api.observe.request_record import RequestRecord
from api.observe.tracing import Tracer
from api.request.reception import Reception
from api.request.validation import RequestRules
from api.served_model import ServedModel
from api.server_settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """One model behind one engine."""

    settings: Settings
    model: ServedModel
    engine: AsyncEngine
    metrics: ServerMetrics
    reception: Reception
    tracer: Tracer | None = None
    gpu: GpuWatch | None = None
    clients: Clients = field(default_factory=Clients)
    adapters: Adapters = field(default_factory=Adapters)

    @property
    def names(self) -> tuple[str, ...]:
        """What requests may ask for: the model's names, then its adapters'."""
        return (*self.model.names, *self.adapters.loaded)

    @property
    def rules(self) -> RequestRules:
        """How requests are checked."""
        return RequestRules(
            served_names=self.names,
            strict_fields=self.settings.strict_fields,
            max_stop_strings=self.settings.max_stop_strings,
            parses_tools=self.model.answers.parses_tools,
            trust_chat_template=self.settings.trust_request_chat_template,
        )

    def adapter_of(self, name: str) -> Adapter | None:
        """What a request for ``name`` is computed with. Raises NotFoundError if it was taken out meanwhile."""
        return None if name in self.model.names else self.adapters.require(name)

    @property
    def is_ready(self) -> bool:
        """True when a request sent now would be answered."""
        return self.engine.state is EngineState.READY

    def require_ready(self) -> None:
        """Raise EngineUnavailable unless ready: nothing else about a request is worth telling then."""
        if not self.is_ready:
            raise EngineUnavailable(self.engine.state.value)

    def require_room(self) -> None:
        """Raise EngineUnavailable unless ready, Overloaded when a request that is read now would wait too long."""
        self.require_ready()
        self.engine.require_room()

    def require_alive(self) -> None:
        """Raise EngineUnavailable when the engine died or hangs: only a restart helps then."""
        if self.engine.state is EngineState.DEAD:
            raise EngineUnavailable(self.engine.state.value)

    def note_end(self, record: RequestRecord) -> None:
        """Count and trace a finished request."""
        self.metrics.observe(record)
        if self.tracer is not None:
            self.tracer.record(record)
