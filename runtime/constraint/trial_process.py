"""The server's side of trials: a sealed process compiles each constraint first; what it cannot bear costs a request.

Knows no queue and no cache.
"""

from __future__ import annotations

import msgspec

from runtime.constraint import limits
from runtime.constraint.grammar import Grammar
from runtime.constraint.spec import Part
from runtime.constraint.trial import Trial
from runtime.constraint.trial_worker import Setup
from runtime.constraint.vocabulary import Vocabulary
from runtime.errors import ConstraintUntried, RequestError
from runtime.sealed.process import SealedProcess


class TrialProcess:
    """Tries one constraint after another. Used by one thread at a time."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        setup = Setup(
            token_bytes=list(vocabulary.token_bytes),
            control_ids=dict(vocabulary.control_ids),
            end_ids=list(vocabulary.end_ids),
        )
        self._process = SealedProcess(
            "runtime.constraint.trial_worker", msgspec.msgpack.encode(setup), work="trying constraints"
        )

    def start(self) -> None:
        """Start the process; does not wait until it is ready."""
        self._process.start()

    def run(self, part: Part) -> tuple[Grammar, int]:
        """The part's grammar, and the bytes of heap that its matcher takes.

        Raises RequestError, without a field, that says which limit was exceeded and by how much; ConstraintUntried
        where that may be the machine's fault, ProcessUnavailable where there is no process.
        """
        try:
            job = msgspec.msgpack.encode(part)
        except UnicodeEncodeError as error:
            raise RequestError("the constraint holds half of a surrogate pair, which no UTF-8 text can") from error
        trial = self._tried(job)
        if trial.grammar is None:
            raise RequestError(trial.refusal)
        if trial.heap_bytes > limits.MAX_COMPILED_BYTES:
            needed, most = trial.heap_bytes / 2**20, limits.MAX_COMPILED_BYTES / 2**20
            raise RequestError(f"the constraint takes {needed:.0f} MiB once compiled; at most {most:.0f} are allowed")
        return trial.grammar, trial.heap_bytes

    def _tried(self, job: bytes) -> Trial:
        """One trial. Raises RequestError where it was given up, or its processes ended."""
        try:
            answer = self._process.exchange(job, limits.TRIAL_DEADLINE_S, cpu_limit_s=limits.TRIAL_CPU_S)
            return msgspec.msgpack.decode(answer, type=Trial)
        except TimeoutError as error:
            allowed = f"{limits.TRIAL_CPU_S:g} s of computing, or {limits.TRIAL_DEADLINE_S:g} s by the clock,"
            was_slow = self._process.last_cost.cpu_s >= limits.TRIAL_CPU_S
            raise (RequestError if was_slow else ConstraintUntried)(self._given_up(allowed)) from error
        except (EOFError, msgspec.MsgspecError) as error:
            memory_mib, stack_mib = limits.TRIAL_MEMORY_BYTES // 2**20, limits.TRIAL_STACK_BYTES // 2**20
            raise RequestError(self._given_up(f"{memory_mib} MiB of memory and {stack_mib} of stack")) from error

    def _given_up(self, allowed: str) -> str:
        """What a trial that was given up may have taken, and what it had taken."""
        cost = self._process.last_cost
        taken = f"{cost.cpu_s:.2f} s of computing"
        if cost.memory_bytes:  # nothing was seen of a process that ended at once
            taken += f", last seen with {cost.memory_bytes / 2**20:.0f} MiB"
        limit = f"the constraint needs more than the {allowed} that compiling may take"
        return f"{limit}; it was given up after {taken}"

    def close(self) -> None:
        """End the process."""
        self._process.end()

    @property
    def pid(self) -> int | None:
        """The process's id, or None while there is none."""
        return self._process.pid
