"""Says in the log why a GPU chooses no tokens. Knows no package and no provider."""

from __future__ import annotations

import logging

_LOG = logging.getLogger("powertrain.backend")


def say_no_head(backend: str) -> None:
    """The package lacks a selection head."""
    _LOG.warning(
        "backend %s: the package has no selection head, so each step's logits come to the host, which draws; export it "
        "again (and build its plan again) to have tokens chosen on the GPU",
        backend,
    )


def say_no_provider(backend: str) -> None:
    """The package has a selection head that nothing in this backend runs."""
    _LOG.info(
        "backend %s: nothing here runs a selection head, so each step's logits come to the host, which draws", backend
    )
