"""Memory that a model has given back to this process, given back to the machine. Knows no model."""

from __future__ import annotations

import ctypes
import gc


def return_freed_memory() -> None:
    """Collect what nothing leads to any more, and have the C library hand its free pages to the system.

    Objects of before may hang in cycles, and were put aside from collection (``gc.freeze``). Weights are many pieces
    that glibc keeps for later, where others of this machine cannot use them; another C library is left as it is.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
