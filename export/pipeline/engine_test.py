"""Runs a plan on its GPU and compares it with the package's golden rows, as a server does before it serves.

What is compared, and how far it may differ, is ``runtime.loading.self_test``'s.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from runtime.loading.backend import BackendChoice, backend_choices
from runtime.loading.first_that_loads import FirstThatLoads
from runtime.loading.model_loader import ModelOptions
from runtime.loading.self_test import Agreement, check_session
from runtime.package.manifest import Package
from runtime.package.plan_sidecar import TRT_GRAPH


def engine_test(
    package: Package,
    backend: str,
    target: str,
    choices: Callable[[Package, str], Iterator[BackendChoice]] = backend_choices,
) -> dict[str, str]:
    """Facts: mean and worst KL against the golden rows in nats. Raises PowertrainError where the plan fails.

    ``package`` holds the plan of ``target``; ``backend`` is what runs it.
    """
    options = ModelOptions(self_test=False)  # it is made here, for its figures
    session = FirstThatLoads(package, options, choices(package, backend)).build()
    try:
        agreement: Agreement = check_session(session, package, package.manifest.graphs[TRT_GRAPH].kv_dtype)
    finally:
        session.close()
    return {"kl": repr(agreement.mean_kl), "max_kl": repr(agreement.max_kl), "target": target}
