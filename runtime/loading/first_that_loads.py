"""A session on the first backend that loads: whatever one raises leads to the next, with the reason in the log.

Owns the order of trying, and that every try serves the context length that the first was planned for, since clients are
told it before the weights are read. Which backends there are is ``backend``'s to say, how one is planned and opened
``model_loader``'s.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

from runtime.errors import BackendError, PowertrainError
from runtime.loading.backend import BackendChoice
from runtime.loading.model_loader import ModelOptions, plan_model, session_factory
from runtime.package.manifest import Package
from runtime.session.kv_budget import KVPlan
from runtime.session.nvtx_session import marking
from runtime.session.session import Session

_LOG = logging.getLogger("powertrain.backend")


class FirstThatLoads:
    """Plans a package for the first of ``choices`` that takes it. ``build`` opens it, or one of those that follow.

    ``kv`` is the plan of the first: its slots' length holds for whatever loads in the end, their number may not.
    """

    def __init__(self, package: Package, options: ModelOptions, choices: Iterator[BackendChoice]) -> None:
        """Raises PowertrainError when none can be planned. ``options.backend`` is replaced by each choice in turn."""
        self._package, self._choices = package, choices
        self._failures: list[tuple[BackendChoice, PowertrainError]] = []
        self._options, self.kv = self._next_planned(options)

    @property
    def backend(self) -> BackendChoice:
        """The one that runs, or that is tried next. Every one with a GPU has the same."""
        return self._options.backend

    def factory(self, trial: Callable[[Session], None], *, nvtx: bool = False) -> Callable[[], Session]:
        """``build`` as a function for the engine thread, with each call marked for NVIDIA's profilers if ``nvtx``.

        Raises BackendError at once where the package that marks them is missing: no other backend would mend that.
        """
        build = partial(self.build, trial)
        return marking(build) if nvtx else build

    def build(self, trial: Callable[[Session], None] = lambda _session: None) -> Session:
        """The session, on the thread that will use it; call it once. What it holds is void.

        ``trial`` uses a GPU's session before it is taken: what it raises leads to the next backend as well. Raises what
        the one backend that there was raised, or BackendError with the reason of each.
        """
        kv = self.kv
        while True:
            options = self._options
            try:
                return self._tried(options, kv, trial)
            except Exception as error:  # noqa: BLE001 - every library raises types of its own; all mean the same here
                _LOG.debug("backend %s does not load", options.backend.backend, exc_info=True)
                self._failures.append((options.backend, _as_expected(error, options.backend)))
            self._options, kv = self._next_planned(replace(options, max_model_len=self.kv.slot_tokens))

    def _tried(self, options: ModelOptions, kv: KVPlan, trial: Callable[[Session], None]) -> Session:
        session = session_factory(self._package, kv, options)()
        if options.backend.gpu is None:
            return session  # nothing comes after the CPU, and its user's own warm-up says the same
        try:
            trial(session)
        except BaseException:
            session.close()
            raise
        return session

    def _next_planned(self, options: ModelOptions) -> tuple[ModelOptions, KVPlan]:
        """The next choice that can be planned, and its plan."""
        for choice in self._choices:
            if self._failures:
                failed, error = self._failures[-1]
                _LOG.warning("backend %s does not load: %s; trying %s", failed.backend, error, choice.backend)
            tried = replace(options, backend=choice)
            try:
                kv = plan_model(self._package, tried)
            except PowertrainError as error:
                self._failures.append((choice, _as_expected(error, choice)))
                continue
            _LOG.info("%s", choice.explain())
            _LOG.info("%s", kv.explain())
            return tried, kv
        if len(self._failures) == 1:
            raise self._failures[0][1]
        reasons = "; ".join(f"{choice.backend}: {error}" for choice, error in self._failures)
        raise BackendError(f"no backend loads this package: {reasons}")


def _as_expected(error: Exception, choice: BackendChoice) -> PowertrainError:
    """The same failure, in one line and without the frames that raised it: those hold weights and device memory."""
    if isinstance(error, PowertrainError):
        error.__cause__ = error.__context__ = None
        return error.with_traceback(None)
    said = (str(error).strip().splitlines() or [""])[0]
    advice = "; run 'powertrain doctor', or serve with --backend cpu" if choice.gpu else ""
    return BackendError(f"backend {choice.backend} does not load: {type(error).__name__}: {said}{advice}")
