"""The failures that only this room has."""

from __future__ import annotations

from runtime.errors import PowertrainError


class FleetError(PowertrainError):
    """The replicas cannot be started as they were asked for; says what to change."""


class ReplicaLostError(PowertrainError):
    """The replica that worked on a request is gone. Nobody knows how far it came; a new request may succeed."""
