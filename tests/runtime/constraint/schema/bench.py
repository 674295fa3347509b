"""``python -m tests.runtime.constraint.schema.bench``: JSONSchemaBench through the rewriting and llguidance's masks.

Prints how many schemas are accepted, what refuses the others, how many walks through the masks ended, how many of their
texts an independent validator calls invalid, and what compiling and masks cost. Ends with 1 where a text was invalid.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import thread_time
from typing import Any
from zlib import crc32

import numpy as np

from runtime.constraint.schema.rewriting import rewritten
from runtime.errors import SchemaRefused
from tests.paths import ROOT
from tests.runtime.constraint.schema.walks import Vocabulary, compiled, is_valid, validator, walked

REPOSITORY = "https://github.com/guidance-ai/jsonschemabench"
_held: dict[Path, Vocabulary] = {}


@dataclass(slots=True)
class Result:
    """One schema's way: ``refused`` is the keyword or the library's reason, empty where it was accepted."""

    name: str
    refused: str = ""
    finished: int = 0
    unfinished: int = 0
    stuck: list[str] = field(default_factory=list)
    invalid: list[str] = field(default_factory=list)
    unchecked: bool = False
    rewrite_ms: float = 0.0
    compile_ms: float = 0.0
    mask_us: list[float] = field(default_factory=list)


def run(path: Path, tokenizer: Path, walks: int) -> Result:
    """One schema, in a worker."""
    vocabulary = _held.get(tokenizer) or _held.setdefault(tokenizer, Vocabulary.of(tokenizer))
    text = path.read_text(encoding="utf-8")
    schema = json.loads(text)["schema"]
    result = Result(path.name)
    start = thread_time()
    try:
        new = rewritten(json.dumps(schema))
    except SchemaRefused as error:
        result.refused = f"{error.keyword}: {error}"
        return result
    finally:
        result.rewrite_ms = (thread_time() - start) * 1e3
    start = thread_time()
    try:
        matcher = compiled(new, vocabulary)
    except ValueError as error:
        result.refused = f"library: {str(error)[:200]}"
        return result
    result.compile_ms = (thread_time() - start) * 1e3
    check = _check(schema)
    result.unchecked = check is None
    for seed in range(walks):
        walk = walked(matcher, vocabulary, seed + 1000 * (crc32(path.name.encode()) % 1000))
        result.mask_us += walk.mask_us
        result.finished += walk.finished
        result.unfinished += not walk.finished and not walk.error
        if walk.error:
            result.stuck.append(f"{walk.error[:150]} after {walk.text[-80:]!r}")
        if walk.finished and check is not None and not is_valid(check, walk.text):
            result.invalid.append(walk.text)
    return result


def _check(schema: Any) -> Any:
    try:
        return validator(schema)
    except ValueError:
        return None


def report(results: list[Result]) -> None:
    """The figures, a line each; times are the thread's own, so that other processes do not count."""
    accepted = [result for result in results if not result.refused]
    print(f"accepted {len(accepted)} of {len(results)}")
    for keyword, count in Counter(result.refused.split(":")[0] for result in results if result.refused).most_common():
        print(f"  refused by {keyword}: {count}")
    finished = sum(result.finished for result in accepted)
    print(f"walks finished {finished}, unfinished {sum(result.unfinished for result in accepted)}", end="")
    print(f", stuck {sum(len(result.stuck) for result in accepted)}", end="")
    print(f", invalid {sum(len(result.invalid) for result in accepted)}", end="")
    print(f", of schemas that the validator does not read {sum(r.finished for r in accepted if r.unchecked)}")
    masks = np.array([us for result in accepted for us in result.mask_us] or [0])
    print("mask us  p50 {:.1f}  p99 {:.1f}  max {:.0f}".format(*np.percentile(masks, [50, 99, 100])))
    for name in ("rewrite_ms", "compile_ms"):
        times = np.array([getattr(result, name) for result in accepted] or [0])
        print(
            name.replace("_", " ") + "  p50 {:.2f}  p99 {:.1f}  max {:.0f}".format(*np.percentile(times, [50, 99, 100]))
        )
    for result in results:
        for text in result.invalid:
            print(f"INVALID {result.name}: {text[:300]}")


def schemas_at(folder: Path) -> list[Path]:
    """The benchmark's files, fetched where they are missing and a network is there."""
    data = folder / "maskbench" / "data" if (folder / "maskbench").is_dir() else folder
    if not folder.is_dir():
        print(f"fetching {REPOSITORY} to {folder}")
        done = subprocess.run(["git", "clone", "--quiet", "--depth", "1", REPOSITORY, str(folder)], check=False)
        if done.returncode:
            sys.exit(
                f"cannot fetch {REPOSITORY}; clone it elsewhere and pass its folder: make bench-schemas ARGS=FOLDER"
            )
        data = folder / "maskbench" / "data"
    found = sorted(data.glob("*.json"))
    return found or sys.exit(f"{data} holds no schemas; pass a checkout of {REPOSITORY}, or its maskbench/data")


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=ROOT / "bench" / "results" / "jsonschemabench")
    parser.add_argument("--tokenizer", type=Path, default=ROOT / "models/smollm2-135m-instruct/tokenizer.json")
    parser.add_argument("--walks", type=int, default=2)
    parser.add_argument("--sample", type=int, help="so many schemas, drawn with a fixed seed, instead of all")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write every schema's result there")
    arguments = parser.parse_args()
    paths = schemas_at(arguments.folder)
    random.Random(0).shuffle(paths)  # what is done when it is interrupted is a fair sample
    paths = paths[: arguments.sample]
    results: list[Result] = []
    with ProcessPoolExecutor(arguments.workers) as pool:
        count = len(paths)
        running = pool.map(run, paths, [arguments.tokenizer] * count, [arguments.walks] * count, chunksize=16)
        try:
            for result in running:
                results.append(result)
                if len(results) % 1000 == 0:
                    print(f"{len(results)} of {count}", file=sys.stderr, flush=True)
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
    report(results)
    if arguments.json:
        rows = [{**asdict(result), "mask_us": max(result.mask_us, default=0)} for result in results]
        arguments.json.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    return int(any(result.invalid for result in results))


if __name__ == "__main__":
    sys.exit(main())
