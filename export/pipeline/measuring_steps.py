"""Steps that run what was built, and say how well and how fast it answers: evaluation, benchmark, self-test of a plan.

A figure of speed holds for the machine that it was measured on, which is part of its key. Runs nothing.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from export.pipeline.keys import code_digest, versions
from export.pipeline.steps import CachedStep, Done, files_on_cpu
from export.pipeline.tasks import BenchTask, EngineTestTask, EvalTask
from export.plan.targets import Target

_CPUINFO = Path("/proc/cpuinfo")


@dataclass(frozen=True, slots=True)
class EvalStep(CachedStep):
    """Asks a package the questions of ``powertrain eval``, on the CPU."""

    kind = "eval"

    def inputs(self, done: Done) -> dict[str, str]:
        """The files that are run, what runs them, and the questions."""
        return {
            "files": files_on_cpu(done[self.needs[0]]),
            "libraries": versions("onnxruntime", "numpy", "tokenizers"),
            "code": code_digest("bench.commands.evaluate_run", "export.pipeline.measuring"),
        }

    def task(self, done: Done, available_bytes: int) -> EvalTask:
        """Ask."""
        del available_bytes
        return EvalTask(identity=self.identity(done), package_key=done[self.needs[0]].entry.key)


@dataclass(frozen=True, slots=True)
class BenchStep(CachedStep):
    """Measures with ``powertrain bench engine`` how fast a package decodes on the CPU, or with ``target`` its plan."""

    target: Target | None

    kind = "bench"

    def inputs(self, done: Done) -> dict[str, str]:
        """The files that are run, what runs them, and the machine."""
        if self.target is not None:
            return _on_gpu(self, self.target, done) | {
                "code": code_digest("bench.commands.engine_run", "export.pipeline.measuring")
            }
        return {
            "files": files_on_cpu(done[self.needs[0]]),
            "libraries": versions("onnxruntime", "numpy"),
            "code": code_digest("bench.commands.engine_run", "export.pipeline.measuring"),
            "machine": cpu_words(),
        }

    def task(self, done: Done, available_bytes: int) -> BenchTask:
        """Measure."""
        del available_bytes
        package, *plans = (done[name].entry.key for name in self.needs)
        return BenchTask(
            identity=self.identity(done),
            package_key=package,
            plan_key=plans[0] if plans else None,
            target=self.target.name if self.target else None,
            backend=_backend(self.target),
        )


@dataclass(frozen=True, slots=True)
class EngineTestStep(CachedStep):
    """Runs a plan on the GPU that it is for, and compares what it computes with the package's golden rows."""

    target: Target

    kind = "self-test"

    def inputs(self, done: Done) -> dict[str, str]:
        """The plan, what runs it, and the code of the test."""
        return _on_gpu(self, self.target, done) | {"code": code_digest("export.pipeline.engine_test")}

    def task(self, done: Done, available_bytes: int) -> EngineTestTask:
        """Run."""
        del available_bytes
        package, plan = (done[name].entry.key for name in self.needs)
        return EngineTestTask(
            identity=self.identity(done),
            package_key=package,
            plan_key=plan,
            target=self.target.name,
            backend=_backend(self.target),
        )


def _on_gpu(step: CachedStep, target: Target, done: Done) -> dict[str, str]:
    package, plan = (done[name] for name in step.needs)
    return {
        "package": files_on_cpu(package),
        "plan": plan.entry.files[f"{target.name}.plan"].sha256,
        "library": f"{target.library.name} {target.library.version}",
        "driver": target.driver or "unseen",
    }


def _backend(target: Target | None) -> str:
    """As ``--backend`` spells what runs a plan."""
    return "cpu" if target is None else target.library.name.replace("_", "-")


@cache
def cpu_words() -> str:
    """``AMD EPYC 9R14, 2 CPUs``: what a figure of speed on the CPU depends on."""
    try:
        lines = _CPUINFO.read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else 'CPU'}, {len(os.sched_getaffinity(0))} CPUs"
