"""Whether this machine lets a server have the threads and processes that it takes. Knows no server.

A control group of few tasks (a container's ``--pids-limit``, a unit's ``TasksMax``) or ``ulimit -u`` would otherwise be
met somewhere amid the start, in whatever library asks first.
"""

from __future__ import annotations

import os
import threading

from api.errors import SettingsError

_OWN = 16
"""The engine, its masks, texts, templates and constraints, three sealed processes, and what ends the event loop."""
_PER_CORE = 2
"""ONNX Runtime and the tokenizer have as many threads each."""


def check_threads(count: int | None = None) -> None:
    """Raise SettingsError unless ``count`` threads can run beside those that there are; by default, what serving takes.

    They have ended again when this returns; it takes a few milliseconds.
    """
    wanted = _OWN + _PER_CORE * (os.cpu_count() or 1) if count is None else count
    end = threading.Event()
    threads: list[threading.Thread] = []
    try:
        for _ in range(wanted):
            thread = threading.Thread(target=end.wait, daemon=True)
            thread.start()
            threads.append(thread)
    except RuntimeError as error:
        raise SettingsError(
            f"the system allows {len(threads)} more threads or processes here and serving takes about {wanted}; raise "
            "the limit: a container's --pids-limit, a unit's TasksMax, or ulimit -u"
        ) from error
    finally:
        end.set()
        for thread in threads:
            thread.join()
