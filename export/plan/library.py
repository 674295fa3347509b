"""The two TensorRT builders behind one door: ``tensorrt`` and ``tensorrt_rtx`` share an API but for a few names.

Told apart by what their builder configuration can do, never by version. Knows no graph and no package.
"""

from __future__ import annotations

import importlib
import logging
import re
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal

from runtime.errors import PlanError
from runtime.install import backend_line

LibraryName = Literal["tensorrt", "tensorrt_rtx"]

_ACTIVATIONS = re.compile(r"Total Activation Memory: (\d+) bytes")
"""What both libraries log, with severity INFO, once per profile of a build."""

_LOG = logging.getLogger("powertrain.tensorrt")


@dataclass(frozen=True, slots=True)
class Library:
    """An imported TensorRT. ``builds_ahead``: compiles for GPUs that are not there."""

    name: LibraryName
    module: ModuleType
    version: str

    @property
    def builds_ahead(self) -> bool:
        """Whether compute capabilities can be named, which is TensorRT for RTX."""
        return hasattr(self.module.IBuilderConfig, "num_compute_capabilities")

    @property
    def takes_lengths(self) -> bool:
        """Whether an attention can be told how many rows of its keys count."""
        return hasattr(getattr(self.module, "IAttention", None), "key_value_lengths")

    def ahead_targets(self) -> tuple[str, ...]:
        """Targets that can be named, such as ``sm89``; empty when only the GPU at hand can be built for."""
        if not self.builds_ahead:
            return ()
        members = self.module.ComputeCapability.__members__
        return tuple(sorted((name.lower() for name in members if name.startswith("SM")), key=lambda sm: int(sm[2:])))


def load_library(name: LibraryName) -> Library:
    """Import a TensorRT. Raises PlanError with the line that installs it."""
    try:
        module = importlib.import_module(name)
    except (ImportError, OSError, RuntimeError) as error:
        reason = "is not installed" if isinstance(error, ModuleNotFoundError) else f"does not load ({error})"
        raise PlanError(f"{name} {reason}; {backend_line(name.replace('_', '-'))}") from error
    return Library(name, module, str(module.__version__))


def make_logger(library: Library) -> Any:  # noqa: ANN401 - a subclass of a type known at run time only
    """A TensorRT logger that writes to Python's log.

    ``errors`` are the last lines of severity error. ``scratch_bytes`` is the most memory for activations that a build
    said a profile needs, 0 before a build; the builder has no call that tells.
    """
    base: Any = library.module.ILogger
    levels = {"INTERNAL_ERROR": logging.ERROR, "ERROR": logging.ERROR, "WARNING": logging.INFO}

    class _Logger(base):  # type: ignore[misc]
        def __init__(self) -> None:
            base.__init__(self)
            self.errors: list[str] = []
            self.scratch_bytes = 0

        def log(self, severity: Any, message: str) -> None:  # noqa: ANN401
            if severity.name in {"ERROR", "INTERNAL_ERROR"}:
                self.errors = [*self.errors[-9:], message]
            if found := _ACTIVATIONS.match(message):
                self.scratch_bytes = max(self.scratch_bytes, int(found[1]))
            _LOG.log(min(levels.get(severity.name, logging.DEBUG), logging.INFO), "%s", message)

    return _Logger()
