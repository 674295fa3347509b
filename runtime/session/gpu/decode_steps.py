"""The decode steps that a session keeps, one for each size of call, and their recordings.

The first run of a size settles what a runtime does lazily, which must not be recorded; the second is recorded where the
device can, and from then on replayed. Knows neither what a step queues nor where its rows lie.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

from runtime.errors import RecordingRefused
from runtime.session.device import Device, Recording
from runtime.session.gpu.runner import Run

_LOG = logging.getLogger("powertrain.backend")


@dataclass(slots=True)
class DecodeStep:
    """What is kept of a decode call's size: the runs of graph and head made ready for it, and their recording."""

    run: Run
    selection: Run | None
    is_settled: bool = False
    recording: Recording | None = None

    @property
    def may_be_recorded(self) -> bool:
        """Whether the device may record all of it."""
        return self.run.may_be_recorded and (self.selection is None or self.selection.may_be_recorded)

    def close(self) -> None:
        """The recording before what it was recorded from."""
        with ExitStack() as stack:
            stack.callback(self.run.close)
            if self.selection is not None:
                stack.callback(self.selection.close)
            if self.recording is not None:
                stack.callback(self.recording.close)


class DecodeSteps:
    """``prepare`` makes a size's step, ``queue_one`` queues all of its work. ``backend`` is for the log."""

    def __init__(
        self,
        device: Device,
        backend: str,
        prepare: Callable[[int], DecodeStep],
        queue_one: Callable[[int, DecodeStep], None],
    ) -> None:
        self._device, self._backend, self._prepare, self._queue_one = device, backend, prepare, queue_one
        self.by_size: dict[int, DecodeStep] = {}
        self._unrecordable: set[int] = set()

    def queue(self, size: int) -> None:
        """Queue a step of ``size`` rows: as it is, or its recording. Raises what a run raises."""
        kept = self.by_size.get(size)
        if kept is None:
            kept = self.by_size[size] = self._prepare(size)
        if kept.recording is None and kept.is_settled and kept.may_be_recorded and size not in self._unrecordable:
            kept.recording = self._recorded(size, kept)
        if kept.recording is not None:
            kept.recording.launch()
            return
        self._queue_one(size, kept)
        kept.is_settled = True

    def close(self) -> None:
        """Every step, whatever closing another one raises."""
        with ExitStack() as stack:
            while self.by_size:
                stack.callback(self.by_size.popitem()[1].close)

    def _recorded(self, size: int, kept: DecodeStep) -> Recording | None:
        """The recording of a size; None from now on if the device refuses it, told once as a warning."""
        try:
            return self._device.record(lambda: self._queue_one(size, kept))
        except RecordingRefused as refusal:
            level = logging.INFO if self._unrecordable else logging.WARNING
            self._unrecordable.add(size)
            _LOG.log(
                level,
                "backend %s: a step of %d rows runs unrecorded from now on, which is slower (%s)",
                self._backend,
                size,
                refusal,
            )
            return None
