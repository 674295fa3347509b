"""``powertrain serve --replicas``: settings and packages -> a fleet that runs until a signal ends it."""

from __future__ import annotations

import itertools
import logging
import queue
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from api.edge.tls import ServerCertificate
from api.observe.logs import configure_logging
from api.settings import ResolvedSettings
from rich.console import Console
from rich.markup import escape
from runtime.commands.surroundings import Surroundings
from runtime.errors import PowertrainError
from runtime.install import install_line
from runtime.package.home import only_package

from fleet.errors import FleetError
from fleet.plan.spec import FleetSpec, fleet_spec

_LOG = logging.getLogger("powertrain.fleet")


def serve_fleet(resolved: ResolvedSettings, around: Surroundings) -> None:
    """Serve until SIGINT or SIGTERM; running answers may end, until a second one. While the fleet starts the first one
    ends it. SIGHUP reads packages and keys again and replaces one replica after another. Raises PowertrainError when it
    cannot begin."""
    settings = resolved.settings
    configure_logging(settings)
    if settings.tls_cert is not None and settings.tls_key is not None:
        ServerCertificate(Path(settings.tls_cert), Path(settings.tls_key))  # Ray's proxy would try for ever
    try:
        from fleet.on_ray.cluster import deploy, running_cluster
    except ImportError as error:
        raise FleetError(f"several replicas need Ray Serve: {install_line('ray', 'powertrain[ray]')}") from error
    first = only_package(around.home()) if settings.model is None else around.build(settings.model)
    folders = [first, *(around.build(model) for model in settings.more_models)]
    spec = fleet_spec(settings, folders, on_loopback=True)
    signals = _Signals()
    try:
        with running_cluster(spec) as port:
            deploy(spec)
            signals.interrupt = False
            _announce(spec, port)
            for generation in itertools.takewhile(lambda _: signals.wanted.get() == "again", itertools.count(1)):
                _replace(resolved, folders, generation)
            _LOG.info("shutting down: running requests have up to %g s to end", settings.drain_timeout_s)
            signals.interrupt = True
    except KeyboardInterrupt:
        _LOG.info("ended by a signal, without waiting for anything")


def _announce(spec: FleetSpec, port: int) -> None:
    names = escape(", ".join(package.names[0] for package in spec.packages))
    scheme = "http" if spec.settings.tls_cert is None else "https"
    where = f"{scheme}://{spec.settings.host}:{port}/v1"
    Console(stderr=True, highlight=False).print(
        f"Serving [bold]{names}[/bold] at {where} from {spec.min_replicas} replicas", soft_wrap=True
    )


class _Signals:
    """What signals ask for, in order, from the moment that this is made.

    While ``interrupt`` is true the first that asks for the end raises KeyboardInterrupt where the program is: while the
    fleet starts, and when it ends already. Those after it do nothing, so that what was started is ended.
    """

    def __init__(self) -> None:
        self.interrupt = True
        # May be put into from a handler.
        self.wanted: queue.SimpleQueue[Literal["again", "end"]] = queue.SimpleQueue()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._end)
        signal.signal(signal.SIGHUP, lambda *_: self.wanted.put("again"))

    def _end(self, *_: object) -> None:
        if self.interrupt:
            self.interrupt = False
            raise KeyboardInterrupt
        self.wanted.put("end")


def _replace(resolved: ResolvedSettings, folders: Sequence[Path], generation: int) -> None:
    """Replace every replica; what cannot be started leaves the fleet as it is, with the reason in the log."""
    from fleet.on_ray.cluster import deploy

    try:
        deploy(fleet_spec(resolved.settings, folders, on_loopback=True, generation=generation))
    except PowertrainError as error:
        _LOG.error("the replicas could not be replaced: %s", error)
    else:
        _LOG.info("every replica is replaced")
    if resolved.settings.tls_cert is not None:
        _LOG.warning(
            "the certificate is still that of the start; Ray's proxy reads it once, so a renewed one needs a restart"
        )
