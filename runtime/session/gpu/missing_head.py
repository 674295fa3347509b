"""Says that a package lacks what lets a GPU choose tokens. Knows no package."""

from __future__ import annotations

import logging

_LOG = logging.getLogger("powertrain.backend")


def say_no_head(backend: str) -> None:
    """Tell in the log that the package lacks what lets a GPU choose tokens."""
    _LOG.warning(
        "backend %s: the package has no selection head, so each step's logits come to the host, which draws; export it "
        "again (and build its plan again) to have tokens chosen on the GPU",
        backend,
    )
