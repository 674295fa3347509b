"""``python -m tests.fuzz.run --seconds 60 [TARGET ...]``: search for inputs that break a target, for so long each.

With atheris installed (libFuzzer for Python) the search is guided by the branches that an input takes; without, by
hypothesis towards inputs that run many lines. What is found lands in ``tests/fuzz/regressions``, which the suite runs.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import subprocess
import sys
import tempfile
import time

_SNIPPET = """
import sys, atheris
with atheris.instrument_imports(include=["api", "export", "runtime"], enable_loader_override=False):
    from tests.fuzz.targets import TARGETS
atheris.Setup(sys.argv, TARGETS[{name!r}])
atheris.Fuzz()
"""


def with_atheris(name: str, seconds: float) -> bool:
    """True when nothing was found. In a process of its own, because libFuzzer ends the process."""
    from tests.fuzz.targets import REGRESSIONS, SEEDS, TARGETS

    found = REGRESSIONS / name
    found.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as corpus:
        flags = [
            f"-max_total_time={max(1, round(seconds))}",
            f"-max_len={min(TARGETS[name].max_bytes, 8192)}",
            f"-artifact_prefix={found}/",
            "-timeout=10", "-rss_limit_mb=2048", "-verbosity=1",
        ]  # fmt: skip
        command = [sys.executable, "-c", _SNIPPET.format(name=name), *flags, corpus, str(SEEDS / name)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    with contextlib.suppress(OSError):  # an empty folder says nothing
        found.rmdir()
        REGRESSIONS.rmdir()
    last = [line for line in done.stderr.splitlines() if line.startswith("Done")]
    print(f"{name}: atheris, {seconds:.0f} s: {'nothing found' if done.returncode == 0 else 'FOUND'}")
    print("  " + "\n  ".join(last if done.returncode == 0 else (done.stdout + done.stderr).splitlines()[-25:]))
    return done.returncode == 0


def with_hypothesis(name: str, seconds: float) -> bool:
    """True when nothing was found."""
    from hypothesis import HealthCheck, Phase, given, seed, settings, target

    from tests.fuzz.mutate import lines_run
    from tests.fuzz.targets import TARGETS, inputs, keep_finding

    end, run, count = time.monotonic() + seconds, TARGETS[name], 0
    phases = (Phase.generate, Phase.target, Phase.shrink)
    while time.monotonic() < end:
        last = b""

        @seed(count)
        @settings(
            max_examples=300, database=None, deadline=None, phases=phases, suppress_health_check=list(HealthCheck)
        )
        @given(run.generated(inputs(name)))
        def search(data: bytes) -> None:
            nonlocal last
            last = data
            if time.monotonic() < end:
                target(float(lines_run(lambda: run(data))))

        try:
            search()
        except Exception as error:  # noqa: BLE001 - whatever a target raises is what is looked for
            print(f"{name}: FOUND {type(error).__name__}: {error}; kept as {keep_finding(name, last)}")
            return False
        count += 1
    print(f"{name}: hypothesis, {seconds:.0f} s, {count * 300} inputs: nothing found")
    return True


def main() -> int:
    """Search in each target; 1 when something was found."""
    from tests.fuzz.targets import TARGETS

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("targets", nargs="*", default=list(TARGETS), help="of " + ", ".join(TARGETS))
    parser.add_argument("--seconds", type=float, default=60.0, help="for each target")
    parser.add_argument("--engine", choices=["auto", "atheris", "hypothesis"], default="auto")
    options = parser.parse_args()
    has_atheris = importlib.util.find_spec("atheris") is not None
    search = (
        with_atheris if options.engine == "atheris" or (options.engine == "auto" and has_atheris) else with_hypothesis
    )
    found = [name for name in options.targets if not search(name, options.seconds)]
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
