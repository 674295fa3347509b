"""What the process of one step runs: reads its job, does it, says how far it is, and dies with the build."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
from runtime.errors import PowertrainError

from export.errors import QualityError
from export.pipeline.cache import Cache
from export.pipeline.perform import PLAIN_NAME, perform
from export.pipeline.tasks import Advanced, Failed, Finished, Job, Message, Said, Stage
from export.progress import Advance

_PR_SET_PDEATHSIG = 1
_REPORT_SECONDS = 0.2


def main() -> None:
    """Do the job on standard input; messages go to the file descriptor that the first argument names."""
    channel, parent = int(sys.argv[1]), int(sys.argv[2])
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(1)  # the build had ended before this process asked to end with it
    job = msgspec.json.decode(sys.stdin.buffer.read(), type=Job)
    reporter = ChannelReporter(channel)
    try:
        perform(job.task, Cache(Path(job.cache)), reporter)
    except PowertrainError as error:
        text = str(error).removeprefix(f"{PLAIN_NAME}: ")
        reporter.send(Failed(text, is_quality=isinstance(error, QualityError)))
        sys.exit(1)
    except ModuleNotFoundError as error:
        reporter.send(Failed(f"this needs {error.name}, which is not installed", is_quality=False))
        sys.exit(1)
    reporter.send(Finished())


class ChannelReporter:
    """Sends stages as messages, how far they are at most five times a second, and writes a log for people."""

    def __init__(self, channel: int) -> None:
        self._channel = channel

    def send(self, message: Message) -> None:
        """One line."""
        data = msgspec.json.encode(message) + b"\n"
        while data:
            data = data[os.write(self._channel, data) :]

    @contextmanager
    def stage(self, title: str, total: int, *, in_bytes: bool = False) -> Iterator[Advance]:
        """A stage of ``total`` units."""
        del in_bytes
        self._note(title)
        self.send(Stage(title, max(1, total)))
        done, told = 0, time.monotonic()

        def advance(count: int) -> None:
            nonlocal done, told
            done += count
            if (now := time.monotonic()) - told >= _REPORT_SECONDS:
                told = now
                self.send(Advanced(done))

        yield advance
        self.send(Advanced(max(1, total)))

    def say(self, text: str) -> None:
        """A line for people."""
        self._note(text)
        self.send(Said(text))

    def _note(self, text: str) -> None:
        sys.stderr.write(f"{time.strftime('%H:%M:%S', time.gmtime())} {text}\n")
