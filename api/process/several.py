"""From settings and several packages to a registry: who gets which memory, and how each is opened again and again.

A package that cannot be served is a model that has failed; the others are served. Starts nothing, knows no request.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from runtime.engine.async_engine import AsyncEngine
from runtime.engine.engine import try_out
from runtime.engine.step_report import EngineStats
from runtime.errors import KVBudgetError, PackageError, PowertrainError
from runtime.loading.backend import backend_choices
from runtime.loading.first_that_loads import FirstThatLoads
from runtime.loading.gpu import find_gpus
from runtime.loading.model_loader import ModelOptions
from runtime.loading.model_memory import device_of, fixed_bytes, free_for_models, planned_cache
from runtime.package.manifest import Package, load_package
from runtime.session.session import Session

from api.adapters import Adapters
from api.controllers.known_model import KnownModel
from api.controllers.registry import ModelRegistry
from api.controllers.service import Service
from api.errors import SettingsError
from api.model_settings import settings_of_models
from api.models.room import CacheWish, MemoryNeed, cache_budgets
from api.observe.gpu_watch import GpuWatch
from api.observe.metrics import ServerMetrics
from api.observe.model_metrics import watch_models
from api.observe.tracing import tracer_from_settings
from api.process.launch import engine_config, model_options, served_adapters, served_model, warm_up_ids
from api.request.reception import new_reception
from api.served_model import ServedModel
from api.server_settings import Settings

_LOG = logging.getLogger("powertrain.models")


@dataclass(slots=True, kw_only=True)
class _Candidate:
    """A model on its way: what is known of it so far, or why it cannot be served."""

    word: str
    folder: Path
    settings: Settings
    package: Package | None = None
    options: ModelOptions | None = None
    need: MemoryNeed = field(default_factory=MemoryNeed)
    model: ServedModel | None = None
    adapters: Adapters = field(default_factory=Adapters)
    failure: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        if self.model is not None:
            return (*self.model.names, *self.adapters.loaded)
        return self.settings.served_model_name or (self.folder.name,)

    def attempt(self, step: Callable[[], None]) -> None:
        """Take a step, unless one before has failed."""
        if self.failure:
            return
        try:
            step()
        except SettingsError:
            raise  # the operator's to mend before anything is served
        except PowertrainError as error:
            self.failure = str(error)
            _LOG.error("the model %s cannot be served: %s", self.names[0], error)


def build_registry(
    settings: Settings, folders: Sequence[tuple[str, Path]], read: Callable[[Path], Package] = load_package
) -> ModelRegistry:
    """The models of ``folders``, each by the word that the operator called it. Loads no weights.

    ``read`` reads and verifies a package, at the start and before it is loaded again.

    Raises SettingsError for settings that contradict each other, two models of one name among them, and PackageError
    when no package can be served.
    """
    own = settings_of_models(settings, [{word, folder.name} for word, folder in folders])
    found = [
        _Candidate(word=word, folder=folder, settings=one) for (word, folder), one in zip(folders, own, strict=True)
    ]
    for candidate in found:
        candidate.attempt(partial(_read, candidate, read))
    budgets = _grant(settings, found)
    for candidate in found:
        candidate.attempt(partial(_give_text_side, candidate))
    _check_names(found)
    if not any(candidate.model for candidate in found):
        reasons = "; ".join(f"{candidate.word}: {candidate.failure}" for candidate in found)
        raise PackageError(f"none of the models can be served: {reasons}")
    registry = ModelRegistry(_known(settings, found, read), budgets)
    watch_models(registry.front.metrics.registry, registry.readings, budgets)
    return registry


def _read(candidate: _Candidate, read: Callable[[Path], Package]) -> None:
    """Verify the package and choose its backend: the first, since what others would take is not counted."""
    package, settings = read(candidate.folder), candidate.settings
    choice = next(backend_choices(package, settings.backend, gpus=partial(find_gpus, settings.gpu)))
    candidate.package, candidate.options = package, replace(model_options(settings), backend=choice)


def _grant(settings: Settings, found: Sequence[_Candidate]) -> dict[str, int]:
    """Give each model its memory, for good. Returns the bytes for all models, by device."""
    budgets: dict[str, int] = {}
    wishes: dict[str, dict[str, CacheWish]] = {}
    for candidate in found:
        if candidate.options is not None:
            device = device_of(candidate.options)
            budgets.setdefault(device, settings.memory_bytes or free_for_models(candidate.options))
            candidate.attempt(partial(_note_wish, candidate, budgets[device], wishes.setdefault(device, {})))
    for device, of_device in wishes.items():
        granted = cache_budgets(budgets[device], of_device)
        for candidate in found:
            if candidate.word in of_device:
                candidate.attempt(partial(_take, candidate, device, granted[candidate.word], of_device))
    return budgets


def _note_wish(candidate: _Candidate, budget: int, wishes: dict[str, CacheWish]) -> None:
    package, options = _ready(candidate)
    fixed = fixed_bytes(package, options)
    alone = max(0, budget - fixed)
    is_asked = options.num_slots is not None or options.kv_cache_bytes is not None
    tried = options if is_asked else replace(options, num_slots=1)
    try:
        size = planned_cache(package, tried, options.kv_cache_bytes or alone).total_bytes
    except KVBudgetError as error:
        raise KVBudgetError(f"{error}; all models share {budget:,} bytes, its weights take {fixed:,}") from error
    wishes[candidate.word] = CacheWish(fixed_bytes=fixed, asked_bytes=size if is_asked else None, least_bytes=size)


def _take(candidate: _Candidate, device: str, budget: int, wishes: dict[str, CacheWish]) -> None:
    package, options = _ready(candidate)
    kv = planned_cache(package, options, budget)
    fixed = wishes[candidate.word].fixed_bytes
    candidate.options = replace(options, kv_cache_bytes=budget, kv_cache_share=None, max_model_len=kv.slot_tokens)
    candidate.need = MemoryNeed(device=device, fixed_bytes=fixed, cache_bytes=kv.total_bytes)
    _LOG.info("the model %s takes %s", candidate.names[0], candidate.need.explain())


def _give_text_side(candidate: _Candidate) -> None:
    package, options = _ready(candidate)
    if options.max_model_len is None:
        raise PackageError(f"the package {package.manifest.name} has no cache")
    model = served_model(candidate.settings, package, options.max_model_len)
    candidate.adapters = served_adapters(candidate.settings, package, model.names, options.num_slots)
    candidate.model = model


def _ready(candidate: _Candidate) -> tuple[Package, ModelOptions]:
    if candidate.package is None or candidate.options is None:
        raise PackageError(f"the package {candidate.folder.name} was not read")
    return candidate.package, candidate.options


def _check_names(found: Sequence[_Candidate]) -> None:
    seen: dict[str, str] = {}
    for candidate in found:
        for name in candidate.names:
            if name in seen:
                raise SettingsError(
                    f"{seen[name]} and {candidate.word} are both called {name}; give one of them another name with "
                    "--model-setting MODEL:served_model_name=NAME"
                )
            seen[name] = candidate.word


def _known(settings: Settings, found: Sequence[_Candidate], read: Callable[[Path], Package]) -> list[KnownModel]:
    """The models behind one intake, one page of metrics, one tracer, one process for templates of requests."""
    served = [candidate.model for candidate in found if candidate.model is not None]
    shared = Service(
        settings=settings,
        model=served[0],
        engine=AsyncEngine(_never, engine_config(settings)),
        metrics=ServerMetrics(served[0].base_name, EngineStats, vllm_names=settings.vllm_metrics),
        reception=new_reception(settings, max(model.max_model_len for model in served)),
        tracer=tracer_from_settings(settings),
        gpu=_gpu_watch(found),
    )
    if shared.gpu is not None:
        shared.metrics.watch_gpu(shared.gpu)
    return [_known_one(candidate, shared, read) for candidate in found]


def _known_one(candidate: _Candidate, shared: Service, read: Callable[[Path], Package]) -> KnownModel:
    if candidate.model is None:
        return KnownModel(None, names=candidate.names, need=candidate.need, failure=candidate.failure)
    package, options = _ready(candidate)
    model, settings = replace(candidate.model, guest_worker=shared.model.guest_worker), candidate.settings
    config = engine_config(settings, warm_up_ids(model))
    is_first = candidate.model.base_name == shared.model.base_name  # the server begins with it
    opening = _Opening(package, options, read, partial(try_out, config=config), nvtx=settings.nvtx, is_fresh=is_first)

    def new_engine() -> AsyncEngine:
        return AsyncEngine(opening, config)

    def read_stats() -> EngineStats:  # of whichever engine runs at the moment of the scrape
        return known.service.engine.stats()

    metrics = shared.metrics.beside(model.base_name, read_stats)
    service = replace(
        shared, settings=settings, model=model, engine=new_engine(), metrics=metrics, adapters=candidate.adapters
    )
    known = KnownModel(service, need=candidate.need, new_engine=new_engine)
    return known


def _gpu_watch(found: Sequence[_Candidate]) -> GpuWatch | None:
    gpus = [c.options.backend.gpu for c in found if c.options is not None and c.options.backend.gpu is not None]
    return GpuWatch(gpus[0].uuid) if gpus else None


def _never() -> Session:
    raise PackageError("this engine is not to be started")


class _Opening:
    """Opens a package's session, on the engine's thread, as often as the model is loaded.

    The package is verified again, since it may have lain there for long, and must be what the server knows: its text
    side stays. Only where it ``is_fresh``, and opened right after it was verified, the first time goes without.
    """

    def __init__(
        self,
        package: Package,
        options: ModelOptions,
        read: Callable[[Path], Package],
        trial: Callable[[Session], None],
        *,
        nvtx: bool,
        is_fresh: bool,
    ) -> None:
        self._package, self._options, self._read, self._trial, self._nvtx = package, options, read, trial, nvtx
        self._is_fresh = is_fresh

    def __call__(self) -> Session:
        """The session. Raises PowertrainError when the package has changed or does not load."""
        name = self._package.manifest.name
        if not self._is_fresh:
            again = self._read(self._package.root)
            if again.manifest != self._package.manifest:
                raise PackageError(f"the package {name} has changed since the server began; restart the server")
            self._package = again
        self._is_fresh = False
        loading = FirstThatLoads(self._package, self._options, iter((self._options.backend,)))
        return loading.factory(self._trial, nvtx=self._nvtx)()
