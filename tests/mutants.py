"""`make mutants`: breaks the engine, the sampler and the sessions on purpose and counts which faults no test notices.

mutmut makes the faults and runs, for each, the quick tests that reach it (``[tool.mutmut]`` in pyproject.toml); here a
sample is drawn, the run is started on a copy of the tree, and survivors are printed by file and line. The sample takes
the names with the smallest hashes, so that it stays the same as far as the code does. Needs mutmut 3.8, whose result
files it reads.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
COPIED = ("runtime", "export", "tests", "pyproject.toml")
SURVIVED, UNTESTED = 0, (5, 33)
_MANGLED = re.compile(r"(?P<module>.+)\.x(?:ǁ(?P<owner>\w+)ǁ|_)(?P<function>\w+)__mutmut_\d+")


def mutmut(tree: Path, *words: str) -> str:
    """What mutmut prints; whether it found fault is in its result files."""
    command = [sys.executable, "-m", "mutmut", *words]
    done = subprocess.run(command, cwd=tree, capture_output=True, text=True, errors="replace", check=False)
    return done.stdout + done.stderr


def results(tree: Path) -> dict[str, int | None]:
    """Every mutant and the exit code of its tests; None if they did not run."""
    found: dict[str, int | None] = {}
    for path in sorted((tree / "mutants").rglob("*.meta")):
        found |= json.loads(path.read_text(encoding="utf-8"))["exit_code_by_key"]
    return found


def sample(names: list[str], count: int, seed: int) -> list[str]:
    """``count`` of the names, the same ones at every run with the same seed."""
    return sorted(names, key=lambda name: hashlib.sha256(f"{seed}:{name}".encode()).digest())[:count]


def function_line(tree: Path, name: str) -> tuple[str, int]:
    """(file, line) at which the function of a mutant begins."""
    match = _MANGLED.fullmatch(name)
    if match is None:
        raise SystemExit(f"{name} is not how mutmut 3.8 names a mutant")
    file = match["module"].replace(".", "/") + ".py"
    body = ast.parse((tree / file).read_text(encoding="utf-8")).body
    if match["owner"]:
        body = next(node.body for node in body if isinstance(node, ast.ClassDef) and node.name == match["owner"])
    nodes = (node for node in body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    return file, next(node.lineno for node in nodes if node.name == match["function"])


def told(tree: Path, name: str) -> str:
    """``file:line`` of a mutant, what stood there and what the mutant put there."""
    file, begin = function_line(tree, name)
    shown = mutmut(tree, "show", name)
    lines = shown.splitlines()
    at = next((place for place, line in enumerate(lines) if line.startswith("@@")), None)
    if at is None:
        raise SystemExit(f"mutmut shows no change for {name}:\n{shown[-3000:]}")
    hunk = lines[at + 1 :]
    before = next(place for place, line in enumerate(hunk) if line.startswith("-"))
    first = int(lines[at].split()[1].removeprefix("-").split(",")[0])
    changed = [line[1:].strip() for line in hunk if line.startswith(("-", "+"))]
    return f"{file}:{begin + first + before - 1}: {'  ->  '.join(changed)}"


def main() -> None:
    """Draw, run, tell."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--count", type=int, default=200, help="mutants in the sample")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--children", type=int, default=1, help="mutants at a time")
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder)
        for name in COPIED:
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
            copy(ROOT / name, tree / name)
        # No mutant has this name: mutmut makes all of them, learns which test reaches which, and stops.
        said = mutmut(tree, "run", "none", "--max-children", str(flags.children))
        names = list(results(tree))
        chosen = sample(names, flags.count, flags.seed)
        if not chosen or not (tree / "mutants" / "mutmut-stats.json").exists():
            raise SystemExit(f"mutmut could not run the tests:\n{said[-3000:]}")
        said = mutmut(tree, "run", *chosen, "--max-children", str(flags.children))
        codes = results(tree)
        if any(codes[name] is None for name in chosen):
            raise SystemExit(f"mutmut stopped early:\n{said[-3000:]}")
        survived = [name for name in chosen if codes[name] == SURVIVED]
        untested = [name for name in chosen if codes[name] in UNTESTED]
        for title, group in (("no test noticed", survived), ("no quick test reaches", untested)):
            print(f"{title}: {len(group)}")
            print("".join(f"  {line}\n" for line in sorted(told(tree, name) for name in group)), end="")
    reached = len(chosen) - len(untested)
    print(f"{len(survived)} of {reached} mutants survived ({len(survived) / max(1, reached):.0%}), "
          f"{len(untested)} more are reached by no quick test; {len(chosen)} of {len(names)} were tried")  # fmt: skip


if __name__ == "__main__":
    main()
