"""Descriptors 0 to 2, which a service manager or a shell (``<&- >&-``) may have closed. Knows no command.

The next file or socket would get such a number: what a library says on its way would go into a client's connection, and
what ends the event loop closes a descriptor that is another's by then.
"""

from __future__ import annotations

import os
import sys

_STREAMS = ("stdin", "stdout", "stderr")


def open_closed_streams() -> None:
    """Make each that is closed the null device, for this process and those that it starts, and a stream of Python's."""
    for number, name in enumerate(_STREAMS):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)  # the lowest number that is free, and the lower ones are not
            os.set_inheritable(opened, True)
        if getattr(sys, name) is None:
            mode = "w" if number else "r"
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115 - it stays
