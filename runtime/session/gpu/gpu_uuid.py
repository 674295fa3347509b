"""A GPU's UUID without what tools write before it, so that what two of them say of one GPU is equal."""

from __future__ import annotations


def bare_uuid(given: str) -> str:
    """A UUID, or its beginning, in lower case and without ``GPU-`` or ``MIG-``."""
    return given.strip().lower().removeprefix("gpu-").removeprefix("mig-")
