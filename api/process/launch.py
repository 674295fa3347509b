"""From settings and a package to a service, and from an address to a socket. Starts nothing, knows no request."""

from __future__ import annotations

import logging
import socket
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from runtime.adapters.factors import read_factors
from runtime.engine.async_engine import AsyncEngine
from runtime.engine.config import EngineConfig
from runtime.engine.engine import try_out
from runtime.errors import TemplateError
from runtime.loading.backend import backend_choices
from runtime.loading.first_that_loads import FirstThatLoads
from runtime.loading.gpu import find_gpus
from runtime.loading.model_loader import ModelOptions, adapter_room
from runtime.package.generation_config import SamplingDefaults
from runtime.package.manifest import Package

from api.adapters import Adapters, adapters_from_settings
from api.controllers.service import Service
from api.errors import SettingsError
from api.observe.gpu_watch import GpuWatch
from api.observe.metrics import ServerMetrics
from api.observe.tracing import tracer_from_settings
from api.process.trusted import adapter_check
from api.request.reception import new_reception
from api.served_model import ServedModel, served_model_from_package
from api.server_settings import Settings

_LOG = logging.getLogger("powertrain.server")


def model_options(settings: Settings) -> ModelOptions:
    """What the settings say of the session."""
    return ModelOptions(
        num_slots=settings.num_slots,
        max_model_len=settings.max_model_len,
        kv_cache_bytes=settings.kv_cache_bytes,
        kv_cache_share=settings.kv_cache_share,
        threads=settings.threads,
        decode_thread=settings.decode_thread,
        self_test=settings.self_test,
    )


def build_service(settings: Settings, package: Package) -> Service:
    """The service of a verified package. Loads no weights: the engine does that on its own thread once it starts."""
    options = model_options(settings)
    choices = backend_choices(package, settings.backend, gpus=partial(find_gpus, settings.gpu))
    loading = FirstThatLoads(package, options, choices)
    model = served_model(settings, package, loading.kv.slot_tokens)
    adapters = served_adapters(settings, package, model.names, loading.kv.num_slots)
    config = engine_config(settings, warm_up_ids(model))
    engine = AsyncEngine(loading.factory(partial(try_out, config=config), nvtx=settings.nvtx), config)
    metrics = ServerMetrics(model.base_name, engine.stats, vllm_names=settings.vllm_metrics)
    gpu = None
    if loading.backend.gpu is not None:
        gpu = GpuWatch(loading.backend.gpu.uuid, is_used=lambda: loading.backend.gpu is not None)
    if gpu is not None:
        metrics.watch_gpu(gpu)
    return Service(
        settings=settings,
        model=model,
        engine=engine,
        metrics=metrics,
        reception=new_reception(settings, model.max_model_len),
        tracer=tracer_from_settings(settings),
        gpu=gpu,
        adapters=adapters,
    )


def served_model(settings: Settings, package: Package, max_model_len: int) -> ServedModel:
    """The text side of a package, as the settings want it. Raises PowertrainError when a file of it is unusable."""
    model = served_model_from_package(
        package, settings=settings, max_model_len=max_model_len, template_source=_template_source(settings)
    )
    _LOG.info("%s", _explain(model.defaults))
    return model


def served_adapters(settings: Settings, package: Package, names: Sequence[str], num_slots: int | None) -> Adapters:
    """What the settings name of adapters of a package, loaded. Raises AdapterError, TrustError or SettingsError.

    ``names`` are the model's own. ``num_slots`` is for the log, which says what adapters take beside the cache.
    """
    room = adapter_room(package)
    factors = None if room is None else read_factors(package, room)
    adapters = adapters_from_settings(settings, room, names, factors, adapter_check(settings))
    if room is not None and num_slots is not None:
        gib = num_slots * room.adapter_bytes / 2**30
        _LOG.info("adapters: %d loaded; slots in use with one take up to %.2f GiB more", len(adapters.loaded), gib)
    return adapters


def _explain(defaults: SamplingDefaults) -> str:
    """One line for the log: what requests get that name no values of their own."""
    given = ", ".join(f"{name} {value:g}" for name, value in defaults.given().items())
    return f"sampling defaults: {given or 'temperature 1, no other rule'}"


def warm_up_ids(model: ServedModel) -> tuple[int, ...]:
    """The prompt of a one-word conversation; empty when the model's template refuses it.

    It takes template and tokenizer through their first use, and the system text that a template adds into the cache.
    """
    try:
        prompt = model.template.render([{"role": "user", "content": "Hello"}], server_texts=model.special_tokens)
    except TemplateError:
        return ()
    return tuple(model.tokenizer.encode(prompt.text))


def engine_config(settings: Settings, warm_up: tuple[int, ...] = ()) -> EngineConfig:
    """The engine's share of the settings. ``warm_up`` is the prompt of the generation before READY."""
    return EngineConfig(
        max_queue=settings.max_queue,
        max_queue_time_s=settings.max_queue_time_s or None,
        max_predicted_wait_s=settings.max_predicted_wait_s or None,
        prefill_chunk_tokens=settings.prefill_chunk_tokens,
        prefix_cache=settings.prefix_cache,
        deterministic=settings.deterministic,
        max_draft_tokens=settings.max_draft_tokens,
        run_ahead=settings.run_ahead,
        warm_up_ids=warm_up,
        watchdog_s=settings.watchdog_s,
    )


def bind(host: str, port: int, flag: str = "--port") -> socket.socket:
    """A bound socket. Raises SettingsError in one line when the address is taken or not this machine's."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
    except OSError as error:
        sock.close()
        reason = error.strerror or str(error)
        raise SettingsError(f"cannot listen on {host}:{port}: {reason}; choose another with {flag}") from error
    return sock


def _template_source(settings: Settings) -> str | None:
    if settings.chat_template is None:
        return None
    try:
        return Path(settings.chat_template).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"chat_template: {settings.chat_template} is not readable: {error}") from error
