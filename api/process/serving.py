"""Resolved settings -> a package found or built, a socket, a server that runs until it is told to end."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import FrameType

from rich.console import Console
from rich.markup import escape
from runtime.commands.surroundings import Surroundings
from runtime.errors import PackageError
from runtime.package.home import only_package
from runtime.package.manifest import Package

from api.controllers.registry import ModelRegistry
from api.edge.keys import admin_key_ring, key_ring
from api.edge.tls import server_certificate
from api.observe.logs import configure_logging
from api.process.launch import bind, build_service
from api.process.reloading import has_files
from api.process.server import Server
from api.process.several import build_registry
from api.process.thread_room import check_threads
from api.process.trusted import package_reader
from api.server_settings import Settings
from api.settings import ResolvedSettings

_LOG = logging.getLogger("powertrain.server")


def serve(resolved: ResolvedSettings, around: Surroundings) -> None:
    """Serve until a signal ends it. Raises PowertrainError when it cannot begin, or when the engine failed."""
    settings = resolved.settings
    configure_logging(settings)
    check_threads()
    if has_files(settings) and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGHUP, _not_yet)  # by itself it would end a start that it was to reach as a server
    if resolved.unused_nim_names:
        _LOG.warning("these variables have no effect here: %s", ", ".join(resolved.unused_nim_names))
    keys = key_ring(settings)
    if keys:
        _LOG.info("a key is needed; the keys are %s", ", ".join(keys.names))
    if admin_keys := admin_key_ring(settings, keys):
        _LOG.info("models are loaded and unloaded at /v1/admin/models; its keys are %s", ", ".join(admin_keys.names))
    server_certificate(settings)  # wrong files end the start before anything is built
    read = package_reader(settings)
    # The ports first: a second server on them should fail before it reads gigabytes, or builds them.
    with ExitStack() as stack:
        sock = stack.enter_context(bind(settings.host, settings.port))
        sockets = [sock]
        if settings.management_port is not None:
            sockets.append(stack.enter_context(bind(settings.host, settings.management_port, "--management-port")))
            _LOG.info("health and metrics have a port of their own: %d", sockets[-1].getsockname()[1])
        models = _models(settings, around, read)
        service = models.front
        host, port = sock.getsockname()[:2]
        scheme = "http" if settings.tls_cert is None else "https"
        shown = f"[{host}]" if ":" in host else host
        docs = "" if settings.docs == "off" else " (docs at /docs)"
        names = escape(", ".join(one.model.base_name for one in models.services))
        with contextlib.suppress(OSError):  # a full disk or a closed pipe takes no log either, and ends no server
            Console(stderr=True, highlight=False).print(
                f"Serving [bold]{names}[/bold] at {scheme}://{shown}:{port}/v1{docs}", soft_wrap=True
            )
        server = Server(service, models)
        server.run(sockets=sockets)
    if models.is_loading:
        # Nothing was served yet. The loader's native threads cannot be stopped, and Python's own end would abort them.
        logging.shutdown()
        os._exit(0)
    if models.failure is not None:
        raise PackageError(f"the engine failed: {models.failure}")


def _not_yet(_signal: int, _frame: FrameType | None) -> None:
    """What SIGHUP asks to be read again is read when the server is made."""


def _models(settings: Settings, around: Surroundings, read: Callable[[Path], Package]) -> ModelRegistry:
    """The model of the settings, or all of several, each built if need be. Raises PowertrainError when one is missing,
    and when the only one, or every one, cannot be served."""
    if settings.model is None or not settings.more_models:
        folder = only_package(around.home()) if settings.model is None else around.build(settings.model)
        return ModelRegistry.alone(build_service(settings, read(folder)))
    words = (settings.model, *settings.more_models)
    return build_registry(settings, [(word, around.build(word)) for word in words], read)
