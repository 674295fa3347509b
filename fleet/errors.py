"""The failures that only this room has."""

from __future__ import annotations

from runtime.errors import PowertrainError


class FleetError(PowertrainError):
    """The replicas cannot be started as they were asked for; says what to change."""


class CutOffError(Exception):
    """An answer that is no stream broke off after its beginning: nothing that may be sent would be understood, so the
    connection has to end. Not one of the failures that are answered."""


class ReplicaLostError(PowertrainError):
    """The replica that worked on a request is gone. Nobody knows how far it came; a new request may succeed."""
