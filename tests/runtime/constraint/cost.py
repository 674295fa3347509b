"""``python -m tests.runtime.constraint.cost PACKAGE [--schemas FOLDER]``: what constraints cost on this machine.

Prints what compiling, masks and matchers take, 10,000 requests on one constraint, and for each bomb how long its answer
took, the longest time that a thread of the same process was kept from running, and how much memory the server grew.
Times of masks are those of the computing thread, which wakes up for each, and of the library's calls alone, one after
the other in one thread, as others measure it; all other times but that of compiling alone are by the clock on the wall.
"""

from __future__ import annotations

import argparse
import json
import random
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import llguidance
import numpy as np

from runtime.constraint.compiler import ConstraintCompiler
from runtime.constraint.constraint import CompiledConstraint
from runtime.constraint.spec import Choice, ConstraintSpec, Json, Lark, Literal, Part, Pattern, Tag, Tagged
from runtime.constraint.trial import compiled
from runtime.errors import ConstraintFailed, Overloaded, RequestError
from runtime.package.manifest import load_package
from runtime.text.tokenizer import Tokenizer
from tests.runtime.constraint.bombs import BOMBS

REQUESTS = 10_000
PERSON = json.dumps({
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 40}, "age": {"type": "integer", "minimum": 0, "maximum": 130},
        "email": {"type": "string", "format": "email"}, "role": {"enum": ["admin", "user", "guest"]},
        "tags": {"type": "array", "items": {"type": "string", "maxLength": 12}, "maxItems": 5},
        "city": {"type": "string"}, "zip": {"type": "string", "pattern": "^[0-9]{5}$"},
    },
    "required": ["name", "age", "role", "tags"], "additionalProperties": False,
})  # fmt: skip
OURS: dict[str, Part] = {
    "an object of seven properties": Json(PERSON),
    "any JSON object": Json('{"type":"object"}'),
    "a pattern": Pattern(r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}$"),
    "three choices": Choice(("yes", "no", "maybe")),
    "a Lark grammar": Lark('start: expr\nexpr: expr "+" term | term\nterm: NUMBER | "(" expr ")"\nNUMBER: /[0-9]+/'),
    "tools in free text": Tagged((Tag("<f=a>", Json(PERSON), "</f>", "<f"), Tag("<f=b>", Literal("{}"), "</f>", "<f"))),
}


class Walker:
    """Walks at random, and keeps what each mask took of its thread."""

    def __init__(self, tokenizer: Tokenizer, end_ids: frozenset[int]) -> None:
        self._end_ids = end_ids
        self._vocab_size = tokenizer.vocab_size
        self.masks_us: list[float] = []

    def walk(self, constraint: CompiledConstraint, seed: int, max_tokens: int) -> int:
        """The number of tokens drawn. Raises ConstraintFailed."""
        drawn, matcher = random.Random(seed), constraint.matcher()
        for count in range(max_tokens):
            spent_s = matcher._budget.spent_s
            matcher.start()
            while not matcher.wait(1):
                pass
            bits = np.unpackbits(matcher.mask().view(np.uint8), bitorder="little")
            self.masks_us.append((matcher._budget.spent_s - spent_s) * 1e6)
            token_ids = np.flatnonzero(bits[: self._vocab_size])
            token_id = int(token_ids[drawn.randrange(len(token_ids))])
            if token_id in self._end_ids:
                matcher.close()
                return count
            matcher.commit(token_id)
        matcher.close()
        return max_tokens


class LibraryWalker:
    """Walks as ``Walker`` does with the library's own calls, in this thread, and keeps what a token's took."""

    def __init__(self, tokenizer: Tokenizer, end_ids: frozenset[int]) -> None:
        self._end_ids = end_ids
        self._bits = np.zeros(-(-tokenizer.vocab_size // 32), np.uint32)
        self._memory = (self._bits.ctypes.data, self._bits.nbytes)
        self.masks_us: list[float] = []

    def walk(self, matcher: llguidance.LLMatcher, seed: int, max_tokens: int) -> None:
        """Ends early where the text does, and where the library goes no further."""
        drawn, token_ids = random.Random(seed), list[int]()
        for _ in range(max_tokens):
            begin = time.perf_counter()
            matcher.consume_tokens(token_ids)
            if not (forced := matcher.compute_ff_tokens()):
                matcher.unsafe_compute_mask_ptr(*self._memory)
            self.masks_us.append((time.perf_counter() - begin) * 1e6)
            allowed = np.flatnonzero(np.unpackbits(self._bits.view(np.uint8), bitorder="little"))
            token_ids = forced[:1] or [int(allowed[drawn.randrange(len(allowed))])]
            if matcher.is_error() or token_ids[0] in self._end_ids:
                return


class Ticker:
    """The longest time that a thread which wakes every 2 ms was kept from running."""

    def __init__(self) -> None:
        self.longest_s = 0.0
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        last = time.perf_counter()
        while True:
            time.sleep(0.002)
            now = time.perf_counter()
            self.longest_s = max(self.longest_s, now - last - 0.002)
            last = now


def resident_mib(pid: int | None = None) -> float:
    fields = (Path("/proc") / str(pid or "self") / "statm").read_text().split()
    return int(fields[1]) * 4096 / 2**20


@contextmanager
def timed(what: str) -> Iterator[None]:
    start, memory = time.perf_counter(), resident_mib()
    yield
    print(f"{what}: {time.perf_counter() - start:.2f} s, server {resident_mib() - memory:+.0f} MiB")


def quantiles(values: list[float]) -> str:
    p50, p99 = np.quantile(values, [0.5, 0.99])
    return f"p50 {p50:.1f}, p99 {p99:.1f}, most {max(values):.1f} of {len(values)}"


def cost_of_compiling(
    compiler: ConstraintCompiler, walker: Walker, alone: LibraryWalker, parts: Iterable[Part]
) -> None:
    whole_ms, compile_ms, sizes = [], [], []
    refused = failed = 0
    for part in parts:
        start = time.perf_counter()
        try:
            constraint = compiler.submit(ConstraintSpec(part, "f")).result()
        except RequestError:
            refused += 1
            continue
        whole_ms.append((time.perf_counter() - start) * 1e3)
        sizes.append(constraint.num_bytes / 1024)
        grammar, _ = compiler._trials.run(part)
        start = time.thread_time()
        library = compiled(compiler._ready_table(), grammar)
        compile_ms.append((time.thread_time() - start) * 1e3)
        library.compute_bitmask()  # builds what the first mask needs, as the product does when it has compiled
        for seed in range(2):
            alone.walk(library.deep_copy(), seed, 200)
            try:
                walker.walk(constraint, seed, 200)
            except ConstraintFailed as error:
                failed += 1
                print("   ", error)
    print(f"  {len(whole_ms)} compiled, {refused} refused, {failed} walks failed")
    print(f"  whole check, ms: {quantiles(whole_ms)}\n  compiling alone, ms: {quantiles(compile_ms)}")
    print(f"  heap, KiB: {quantiles(sizes)}\n  masks, us: {quantiles(walker.masks_us)}")
    print(f"  masks, the library alone, us: {quantiles(alone.masks_us)}")


def cost_of_requests(compiler: ConstraintCompiler, walker: Walker) -> None:
    constraint = compiler.submit(ConstraintSpec(Json(PERSON), "f")).result()
    start = time.perf_counter()
    for _ in range(1_000):
        constraint.matcher()
    print(f"  a matcher: {(time.perf_counter() - start) * 1e3:.0f} us")
    with timed(f"  {REQUESTS:,} requests on one constraint"):
        num_tokens = sum(walker.walk(constraint, seed, 10) for seed in range(REQUESTS))
    print(f"  {num_tokens:,} tokens, no error")


def cost_of_bombs(compiler: ConstraintCompiler, walker: Walker, ticker: Ticker) -> None:
    for name, part in BOMBS.items():
        ticker.longest_s, memory, start = 0.0, resident_mib(), time.perf_counter()
        try:
            constraint = compiler.submit(ConstraintSpec(part, "f")).result()
            said = f"compiles, {constraint.num_bytes / 2**20:.1f} MiB"
            answer_s = time.perf_counter() - start
            said += f", {walker.walk(constraint, 0, 100)} tokens"
        except (RequestError, ConstraintFailed, Overloaded) as error:
            answer_s = time.perf_counter() - start
            said = str(error)
        longest_ms, grown = ticker.longest_s * 1e3, resident_mib() - memory
        print(f"  {name:38} {answer_s:5.2f} s, gap {longest_ms:4.0f} ms, {grown:+4.0f} MiB: {said:.110}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("package", type=Path)
    parser.add_argument("--schemas", type=Path, help="a folder of JSON schemas, or of {'schema': ...}")
    parser.add_argument("--count", type=int, default=300, help="how many of them, spread over the folder")
    given = parser.parse_args()
    package = load_package(given.package)
    tokenizer = Tokenizer.from_package(package)
    end_ids = package.manifest.stop_token_ids
    compiler = ConstraintCompiler(tokenizer.vocabulary(end_ids))
    with timed(f"ready, {tokenizer.vocab_size:,} tokens"):
        compiler.submit(ConstraintSpec(Literal("a"), "first")).result()
    print(f"the process for trials: {resident_mib(compiler._trials.pid):.0f} MiB")
    print("our own constraints")
    ends = frozenset(end_ids)
    cost_of_compiling(compiler, Walker(tokenizer, ends), LibraryWalker(tokenizer, ends), OURS.values())
    if given.schemas is not None:
        files = sorted(given.schemas.rglob("*.json"))
        files = files[:: max(1, len(files) // given.count)]
        documents = [json.loads(file.read_text(encoding="utf-8")) for file in files]
        print(f"{len(files)} schemas of {given.schemas.name}")
        parts = [Json(json.dumps(document.get("schema", document))) for document in documents]
        cost_of_compiling(compiler, Walker(tokenizer, ends), LibraryWalker(tokenizer, ends), parts)
    print("one constraint, many requests")
    cost_of_requests(compiler, Walker(tokenizer, ends))
    print("bombs")
    cost_of_bombs(compiler, Walker(tokenizer, ends), Ticker())
    print(f"at the end: server {resident_mib():.0f} MiB, trials {resident_mib(compiler._trials.pid):.0f} MiB")
    compiler.close()


if __name__ == "__main__":
    main()
