"""The process of one step: its start, its lines, its end. It dies with the build, and its memory is free afterwards.

What it prints for people, and what libraries print, goes to its log; messages come through a pipe of their own.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import msgspec

from export.errors import StepError
from export.pipeline.keys import CODE
from export.pipeline.tasks import Failed, Job, Message

# By the path of this code: a folder named like one of our rooms in the current folder must not come first.
_BOOT = "import sys; sys.path[:0] = sys.argv[3:]; from export.pipeline.worker import main; main()"
_READ_BYTES = 2**16


class Running(Protocol):
    """A step that was started."""

    def fileno(self) -> int:
        """A file descriptor that is readable when there are messages or the end."""
        ...

    def messages(self) -> Iterator[Message]:
        """What came since; the last message of all is Finished or Failed."""
        ...

    def close(self) -> None:
        """End it if it has not ended."""
        ...


class Child:
    """A step in a process of its own, whose log is ``log``. Raises StepError if that cannot be written."""

    def __init__(self, job: Job, log: Path) -> None:
        self._log, self._rest, self._decoder = log, b"", msgspec.json.Decoder(Message)
        try:
            log.parent.mkdir(parents=True, exist_ok=True)
            errors = log.open("wb")
        except OSError as error:
            raise StepError(
                f"{log}: cannot be written ({error.strerror}); choose another folder with --cache"
            ) from error
        self._pipe, theirs = os.pipe()
        command = [sys.executable, "-P", "-X", "utf8", "-c", _BOOT, str(theirs), str(os.getpid()), str(CODE)]
        with errors:
            self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and our own code
                command,
                stdin=subprocess.PIPE,
                stdout=errors,
                stderr=errors,
                pass_fds=(theirs,),
                start_new_session=True,  # a terminal's Ctrl-C asks the build to end, which ends its steps
            )
        os.close(theirs)
        stdin = self._process.stdin
        if stdin is not None:
            with contextlib.suppress(BrokenPipeError), stdin:
                stdin.write(msgspec.json.encode(job))

    def fileno(self) -> int:
        """The pipe's end."""
        return self._pipe

    def messages(self) -> Iterator[Message]:
        """Whole lines that came; at the end of the pipe a process that did not say how it ended has failed."""
        data = os.read(self._pipe, _READ_BYTES)
        *lines, self._rest = (self._rest + data).split(b"\n")
        yield from (self._decoder.decode(line) for line in lines)
        if not data:
            yield Failed(self._cause_of_death(), is_quality=False)

    def _cause_of_death(self) -> str:
        code = self._process.wait()
        if code == -signal.SIGKILL:
            return f"its process was killed, perhaps for want of memory; lower jobs, or see {self._log}"
        how = signal.Signals(-code).name if code < 0 else f"status {code}"
        return f"its process ended with {how}; see {self._log}"

    def close(self) -> None:
        """Kill it if it runs; it has its files in a folder that its next run empties."""
        self._process.kill()
        self._process.wait()
        os.close(self._pipe)
