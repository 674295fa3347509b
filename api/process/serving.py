"""Resolved settings -> a package found or built, a socket, a server that runs until it is told to end."""

from __future__ import annotations

import logging
import os
from contextlib import ExitStack

from rich.console import Console
from runtime.commands.surroundings import Surroundings
from runtime.errors import PackageError
from runtime.package.home import only_package
from runtime.package.manifest import load_package

from api.edge.keys import key_ring
from api.edge.tls import server_certificate
from api.observe.logs import configure_logging
from api.process.launch import bind, build_service
from api.process.server import Server
from api.process.trusted import trusted_keys, trusted_package
from api.settings import ResolvedSettings

_LOG = logging.getLogger("powertrain.server")


def serve(resolved: ResolvedSettings, around: Surroundings) -> None:
    """Serve until a signal ends it. Raises PowertrainError when it cannot begin, or when the engine failed."""
    settings = resolved.settings
    configure_logging(settings)
    if resolved.unused_nim_names:
        _LOG.warning("these variables have no effect here: %s", ", ".join(resolved.unused_nim_names))
    if names := key_ring(settings).names:
        _LOG.info("a key is needed; the keys are %s", ", ".join(names))
    server_certificate(settings)  # wrong files end the start before anything is built
    trusted = trusted_keys(settings)
    # The ports first: a second server on them should fail before it reads gigabytes, or builds them.
    with ExitStack() as stack:
        sock = stack.enter_context(bind(settings.host, settings.port))
        sockets = [sock]
        if settings.management_port is not None:
            sockets.append(stack.enter_context(bind(settings.host, settings.management_port, "--management-port")))
            _LOG.info("health and metrics have a port of their own: %d", sockets[-1].getsockname()[1])
        folder = only_package(around.home()) if settings.model is None else around.build(settings.model)
        service = build_service(settings, load_package(folder) if trusted is None else trusted_package(folder, trusted))
        host, port = sock.getsockname()[:2]
        scheme = "http" if settings.tls_cert is None else "https"
        shown = f"[{host}]" if ":" in host else host
        docs = "" if settings.docs == "off" else " (docs at /docs)"
        Console(stderr=True, highlight=False).print(
            f"Serving [bold]{service.model.base_name}[/bold] at {scheme}://{shown}:{port}/v1{docs}",
            soft_wrap=True,
        )
        server = Server(service)
        server.run(sockets=sockets)
    if service.engine.is_loading:
        # Nothing was served yet. The loader's native threads cannot be stopped, and Python's own end would abort them.
        logging.shutdown()
        os._exit(0)
    if service.engine.failure is not None:
        raise PackageError(f"the engine failed: {service.engine.failure}")
