"""A Ray cluster of this machine alone for one fleet: on loopback, with nothing but what Serve needs; ended whole.

It is always a cluster of its own; a fleet on a cluster that runs already is ``powertrain_ray``. Knows no request.
"""

from __future__ import annotations

import contextlib
import logging
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import ray
from api.process.launch import bind
from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException

from fleet.errors import FleetError
from fleet.on_ray.deployments import fleet_application
from fleet.on_ray.left_over import nothing_left
from fleet.on_ray.loopback import node_on_loopback
from fleet.plan.spec import FleetSpec

APPLICATION = "powertrain"
_LOGGING = {"log_level": "WARNING", "enable_access_log": False}
_OBJECT_STORE_BYTES = 128 * 2**20
"""Bodies above 100 kB pass through it; nothing else does."""


@contextmanager
def running_cluster(spec: FleetSpec) -> Iterator[int]:
    """A cluster with Serve's proxy on it; gives the proxy's port. Ends what it started, also when a handler of signals
    interrupts the start. Raises SettingsError for a port that is taken."""
    settings = spec.settings
    with bind(settings.host, settings.port) as sock:  # a taken port is one line; Ray would try for a minute
        port = int(sock.getsockname()[1])
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    with nothing_left(), contextlib.ExitStack() as running:
        running.callback(ray.shutdown)
        try:
            with node_on_loopback(), _own_signals():
                _start(spec)
        except Exception as error:  # ray raises no narrower one
            raise FleetError(f"Ray could not be started on this machine: {error}") from error
        running.callback(serve.shutdown)  # not before: it would start Ray where there is none
        serve.start(
            proxy_location="HeadOnly",
            http_options={
                "host": settings.host,
                "port": port,
                "ssl_keyfile": _absolute(settings.tls_key),
                "ssl_certfile": _absolute(settings.tls_cert),
                "keep_alive_timeout_s": int(settings.idle_timeout_s),
            },
            logging_config=_LOGGING,
        )
        yield port


@contextmanager
def _own_signals() -> Iterator[None]:
    """Keep this process's handlers of signals: Ray puts its own in their place, which abort the process. What those
    take meanwhile is told to ours, and is a KeyboardInterrupt whatever ours does."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    is_asked = False
    try:
        yield
    except SystemExit:  # Ray's first handler of SIGTERM
        is_asked = True
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if is_asked:
        signal.raise_signal(signal.SIGTERM)
        raise KeyboardInterrupt


def _absolute(file: str | None) -> str | None:
    """Ray's proxy runs in a folder of its own."""
    return None if file is None else str(Path(file).resolve())


def _start(spec: FleetSpec) -> None:
    ray.init(
        address="local",
        num_cpus=spec.threads * spec.max_replicas,
        include_dashboard=False,
        object_store_memory=_OBJECT_STORE_BYTES,
        _node_ip_address="127.0.0.1",
        logging_level=logging.WARNING,
        log_to_driver=True,
        _system_config={"worker_niceness": 0},  # Ray's 15 lets everything else on the machine go before the replicas
    )


def deploy(spec: FleetSpec) -> None:
    """Start the fleet, or change the running one to ``spec`` replica by replica; returns when it is as asked.

    Raises FleetError when it cannot be; the replicas' logs say why.
    """
    try:
        serve.run(fleet_application(spec), name=APPLICATION, route_prefix="/", logging_config=_LOGGING)
    except (RuntimeError, RayError, RayServeException) as error:
        raise FleetError(f"the replicas could not be started: {error}") from error
