"""Whether Ray has what its doubles have: names, parameters, options, and what an error of a replica's looks like."""

from __future__ import annotations

import inspect
import json
import subprocess

import pytest

from tests.fleet import ray_double
from tests.fleet.on_ray import PYTHON, plain_environment
from tests.paths import ROOT

pytestmark = [
    pytest.mark.ray,
    pytest.mark.skipif(PYTHON is None, reason="POWERTRAIN_RAY_PYTHON is not set; 'make test-ray' sets it"),
    pytest.mark.timeout(120),
]
TAKE = {
    "ray:init": ray_double.Cluster.init,
    "ray:shutdown": ray_double.Cluster.shutdown,
    "ray.serve:start": ray_double.Cluster.serve_start,
    "ray.serve:run": ray_double.Cluster.serve_run,
    "ray.serve:shutdown": ray_double.Cluster.serve_shutdown,
    "ray.serve:deployment": ray_double.deployment,
    "ray.serve:multiplexed": ray_double.multiplexed,
    "ray.serve:ingress": ray_double.ingress,
    "ray.serve.handle:DeploymentBroadcastResponse.results_async": None,
    "ray.serve.request_router:RequestRouter.choose_replicas": None,
    "ray.serve.request_router:RequestRouter.on_request_completed": None,
    "ray.serve.request_router:RequestRouter.on_request_routed": None,
    "ray.serve.request_router:RequestRouter.on_replica_actor_died": ray_double.RequestRouter.on_replica_actor_died,
    "ray.serve.request_router:RequestRouter.update_replicas": ray_double.RequestRouter.update_replicas,
    "ray.serve._private.replica_result:ReplicaResult.add_done_callback": ray_double.Result.add_done_callback,
}
FIELDS = {
    "ray.serve.config:AutoscalingConfig": [
        "min_replicas", "max_replicas", "target_ongoing_requests", "upscale_delay_s", "downscale_delay_s",
        "look_back_period_s",
    ],
    "ray.serve.config:HTTPOptions": ["host", "port", "ssl_keyfile", "ssl_certfile", "keep_alive_timeout_s"],
}  # fmt: skip
ASKED = """
import importlib, inspect, json, sys, weakref
take, fields = json.loads(sys.stdin.read())
def at(name):
    module, _, path = name.partition(":")
    found = importlib.import_module(module)
    for part in path.split("."):
        found = getattr(found, part)
    return found
wrong = []
for name, wanted in take.items():
    had = inspect.signature(at(name)).parameters
    if not any(item.kind is item.VAR_KEYWORD for item in had.values()):
        wrong += [f"{name}: {one}" for one in wanted if one not in had]
for name, wanted in fields.items():
    wrong += [f"{name}: {one}" for one in wanted if one not in at(name).model_fields]
from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.serve.exceptions import BackPressureError, RayServeException
from ray.serve.request_router import MultiplexMixin, PendingRequest, RequestRouter
from runtime.errors import PackageError
assert issubclass(RayActorError, RayError) and issubclass(BackPressureError, RayServeException)
assert not issubclass(RayServeException, RayError)
cause = PackageError("broken")
both = RayTaskError("f", "Traceback (most recent call last):", cause).as_instanceof_cause()
assert isinstance(both, PackageError) and isinstance(both, RayTaskError) and both.cause is cause
assert weakref.ref(PendingRequest.__new__(PendingRequest))
import ray._private.services, ray.serve._private.replica
assert ray._private.services.resolve_ip_for_localhost("x") == "x"
assert ray.serve._private.replica.add_port_to_grpc_server
print(json.dumps(wrong))
"""


def test_ray_has_what_its_doubles_have() -> None:
    take = {
        name: [one for one in inspect.signature(double).parameters if one not in {"self", "cls"}] if double else []
        for name, double in TAKE.items()
    }
    done = subprocess.run(
        [str(PYTHON), "-c", ASKED],
        check=False,
        cwd=ROOT,
        env=plain_environment(),
        input=json.dumps([take, FIELDS]),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout.splitlines()[-1]) == []
