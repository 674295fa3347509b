"""One step ahead: when the next decode call may be launched before the one that runs was waited for, and with whom.

It may when the next step would do nothing but decode, and when whoever runs the calls takes every row's next token from
itself: a device that chooses tokens, or a thread that draws them. So not where

* the engine must know a token first: a constraint makes its mask from it, a draft begins with it, and a device that
  chooses tokens is told of it by penalties and banned words. Such a row holds the others up for the host's time, a
  millisecond or so; sitting out every other call would halve its speed.
* a prompt is read, rows are copied, or a sequence waits and has, or is about to get, a slot. Nobody gets a slot while a
  call is on its way, so no call writes into a slot that was given away after its launch.
* the session could not choose some token: the row behind it is void, and so may the next ones be. For a few steps
  nothing is launched ahead then.

Launches calls and waits for them; what becomes of their tokens is ``decode_calls``'.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

from runtime.engine.flight import Flight, NextRow, known, unknown
from runtime.engine.scheduler import Scheduler
from runtime.engine.sequence import Sequence
from runtime.errors import DeviceError
from runtime.sampling.host_draw import DrawnBehind
from runtime.session.selected import Selected
from runtime.session.selection_table import SelectionTable
from runtime.session.session import AheadSession, Session, runs_ahead

PAUSE_STEPS = 16
"""Steps as they were before, after a row that was void: where more than one call in so many has one, waiting for void
rows and for the logits behind a running call costs more than the host's time does."""

_LOG = logging.getLogger("powertrain.engine")


class Ahead:
    """One for an engine's life. ``flight`` is the call that was launched and not waited for, if there is one."""

    def __init__(self, session: Session, scheduler: Scheduler, *, is_on: bool) -> None:
        self.session: AheadSession[Any] | None = session if is_on and runs_ahead(session) else None
        self._selects = session.info.selects
        self.flight: Flight | None = None
        self._scheduler = scheduler
        self._pause = 0
        self._is_refused = False

    def following(self, flight: Flight) -> list[NextRow]:
        """The rows of the call to launch behind ``flight``; empty if there is to be none. Asked once per flight."""
        if self._pause:
            self._pause -= 1
            return []
        if self.session is None or self._is_refused or not all(flight.states):
            return []
        flying = {id(flight.rows[place].sequence) for place in flight.places()}
        rows, num_ending = [], 0
        for sequence in self._scheduler.running:
            if self._needs_its_token(sequence):
                return []
            if id(sequence) not in flying:
                rows.append(known(sequence))
            elif sequence.num_left > 1:
                rows.append(unknown(sequence))
            else:
                num_ending += 1
        if not rows or (len(rows) == 1 and rows[0].sequence.draft is not None):
            return []
        if not self._scheduler.only_decodes(num_ending):
            return []
        return sorted(rows, key=_slot)

    def launch(self, flight: Flight, table: SelectionTable | None) -> Flight:
        """Launch a call: by the rules in ``table`` where the session chooses tokens, else with what draws them.

        Returns it as it flies. Raises what the session's launch raises.
        """
        if self.session is None:
            raise DeviceError("a call is to be launched in a session that launches none")
        if self._selects:
            self.session.launch(*flight.arrays(), table)
            return flight
        draw = DrawnBehind(flight.states)
        self.session.launch(*flight.arrays(), draw)
        return replace(flight, draw=draw)

    def wait(self) -> Selected:
        """The answer of the call launched first of those on their way. Raises what the session's wait raises."""
        if self.session is None:
            raise DeviceError("a call is on its way in a session that launches none")
        return self.session.wait()

    def note_void(self, num_rows: int) -> None:
        """So many rows of the call that is on its way give nobody a token."""
        if num_rows:
            self._pause = PAUSE_STEPS

    def refused(self, why: str) -> None:
        """A call behind another one was refused, which costs nobody anything; none is launched so again."""
        self._is_refused = True
        _LOG.warning("no step is launched ahead from now on, which is slower: %s", why)

    def _needs_its_token(self, sequence: Sequence) -> bool:
        if sequence.request.constraint is not None:
            return True
        return self._selects and sequence.sampler.rules.asks_for_tokens


def _slot(row: NextRow) -> int:
    return row.sequence.slot
