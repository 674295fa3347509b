"""The threads that work on texts beside the event loop. Owns their number and their priority; knows no work."""

from __future__ import annotations

import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

from api.request.turns import NUM_PLACES

_LOWER_PRIORITY = 5  # of 19: a quarter of a core that the model wants too, all of one that nobody else does


def text_threads() -> ThreadPoolExecutor:
    """Threads for an event loop whose off-loop work is on texts: one per place and a spare, behind the model's.

    They have started when this returns, so that no request meets a machine that has no thread left. Raises RuntimeError
    where it has none already.
    """
    count = NUM_PLACES + 1
    threads = ThreadPoolExecutor(count, thread_name_prefix="texts", initializer=_lower_priority)
    all_there = threading.Barrier(count + 1)  # a thread that waits is not idle: the next work starts another one
    try:
        for _ in range(count):
            threads.submit(all_there.wait)
        all_there.wait()
    except RuntimeError:
        all_there.abort()  # or else those that started would never end, nor would this process
        raise
    return threads


def _lower_priority() -> None:
    """Lower the calling thread's priority below the rest of its process. Only Linux knows priorities of threads."""
    if sys.platform == "linux":
        thread = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + _LOWER_PRIORITY)
