"""The selection head against the host's rules: what it settles is the host's token, and what it cannot it does not."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from export.graph.ort.dialect import OPSET
from export.graph.selection import write_selection_graph
from export.graph.trt.dialect import OPSET as TRT_OPSET
from runtime.package import selection_io as io
from runtime.request import SamplingParams
from runtime.sampling.sampler import LOGPROB_FLOOR, NoToken, Sampled
from runtime.sampling.token_choice import draw
from tests.export.graph.selection_rows import F32, Case, packed_rows
from tests.runtime.sampling.sample_rows import KINDS, row

Head = Callable[[list[Case]], dict[str, NDArray[Any]]]
SIZES = (3, 97, 300, 5003)


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Head:
    """Runs cases of one vocabulary through a head on ONNX Runtime's CPU provider."""

    @functools.cache
    def session(vocab_size: int, has_mask: bool) -> ort.InferenceSession:
        folder = tmp_path_factory.mktemp("head")
        path = write_selection_graph(folder, vocab_size, OPSET, has_mask=has_mask)
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = 1
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def run(cases: list[Case]) -> dict[str, NDArray[Any]]:
        has_mask = any(case.allowed is not None for case in cases)
        found = session(len(cases[0].logits), has_mask)
        names = [output.name for output in found.get_outputs()]
        return dict(zip(names, found.run(names, packed_rows(cases, has_mask=has_mask)), strict=True))

    return run


def check(cases: list[Case], told: dict[str, NDArray[Any]]) -> float:
    """Hold every settled row to the host's; the share of rows whose token is settled."""
    num_settled = 0
    for place, case in enumerate(cases):
        settled, drawn = int(told[io.SETTLED][place]), case.host()
        if isinstance(drawn, NoToken):
            assert settled == 0, case
            continue
        assert isinstance(drawn, Sampled)
        assert drawn.logprobs is not None
        if settled & io.TOKEN_SETTLED:
            num_settled += 1
            assert told[io.DRAWN][place] == drawn.token_id, case
            expected = max(float(told[io.LOGPROB][place]), LOGPROB_FLOOR)
            assert drawn.logprobs.logprob == pytest.approx(expected, abs=1e-4, rel=1e-5)
        if settled & io.TOP_SETTLED:
            pairs = zip(told[io.TOP_IDS][place].tolist(), told[io.TOP_LOGPROBS][place].tolist(), strict=True)
            finite = [(token, value) for token, value in pairs if value > -math.inf]
            host = drawn.logprobs.top[: len(finite)]
            assert [token for token, _ in finite] == [token for token, _ in host], case
            told_values = [max(value, LOGPROB_FLOOR) for _, value in finite]
            assert told_values == pytest.approx([value for _, value in host], abs=1e-4, rel=1e-5)
            assert all(value == LOGPROB_FLOOR for _, value in drawn.logprobs.top[len(finite) :])
    return num_settled / len(cases)


def random_case(generator: np.random.Generator, size: int, *, masked: bool) -> Case:
    """A row of any kind under any rules."""
    kind = str(generator.choice(KINDS))
    logits = row(kind, int(generator.integers(2**31)), size)
    if generator.random() < 0.3:  # as from a graph in bfloat16: equal logits everywhere
        logits = (logits.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
    sampling: dict[str, Any] = {"temperature": float(generator.choice([0.0, 1e-6, 0.2, 0.8, 1.0, 2.0]))}
    sampling["top_p"] = float(generator.choice([1.0, 1.0, 1e-9, 0.5, 0.9, 0.95]))
    sampling["top_k"] = int(generator.choice([0, 0, 0, 1, 5, 40, 256, 257]))
    sampling["min_p"] = float(generator.choice([0.0, 0.0, 0.0, 0.02, 0.3, 1.0]))
    ids = generator.permutation(size)[:12].tolist()
    if generator.random() < 0.5:
        values = generator.choice([-100.0, 100.0, -2.5, 1.0], 4).tolist()
        sampling["logit_bias"] = tuple(zip(ids[:4], values, strict=False))
    if generator.random() < 0.3:
        sampling["bad_words"] = ((ids[0],), (ids[-1],))
    if generator.random() < 0.5:
        sampling["repetition_penalty"] = float(generator.choice([1.1, 0.5, 2.0]))
        sampling["frequency_penalty"] = float(generator.choice([0.0, 0.3]))
        sampling["presence_penalty"] = float(generator.choice([0.0, -0.5]))
    best = [int(logits.argmax())]
    seen = tuple(generator.choice(ids + best, 6).tolist())
    kept = generator.integers(1, size + 1)
    allowed = frozenset(generator.permutation(size)[:kept].tolist()) if masked else None
    return Case(logits, sampling, float(generator.random()), seen, tuple(ids[:3]), allowed)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("masked", [False, True])
def test_what_is_settled_is_the_hosts(head: Head, size: int, masked: bool) -> None:
    generator = np.random.default_rng(size)
    cases = [random_case(generator, size, masked=masked) for _ in range(60)]
    assert check(cases, head(cases)) > 0.7


@pytest.mark.parametrize("rules", [{}, {"top_p": 0.9}, {"top_k": 40, "top_p": 0.95}, {"min_p": 0.01}], ids=str)
def test_numbers_next_to_a_tokens_end_are_left_to_the_host(head: Head, rules: dict[str, Any]) -> None:
    """Sums in float32 and float64 part there: by a few units in the last place the number is the next token's."""
    cases = []
    for seed in range(12):
        logits = row("zipf" if seed % 2 else "normal", seed, 5003)
        temperature = (0.3, 0.8)[seed % 4 // 2]
        weights = np.sort(np.exp((logits.astype(np.float64) - logits.max()) / temperature))[::-1]
        total = weights.sum()
        if "min_p" in rules:
            weights = weights[weights >= rules["min_p"]]
        weights = weights[: rules.get("top_k", 5003)]
        total = weights.sum() if len(rules) == 2 or "min_p" in rules else total
        ends = weights.cumsum()
        kept = ends[ends.searchsorted(rules.get("top_p", 1.0) * total)] if "top_p" in rules else total
        nearly = 1 + np.random.default_rng(seed).normal(0, 3e-7, len(ends[:6]))
        numbers = (ends[:6] * nearly / kept).tolist()
        cases += [Case(logits, {"temperature": temperature, **rules}, number) for number in numbers if number < 1]
    assert len(cases) > 25
    assert check(cases, head(cases)) < 0.3  # after the last end nothing is kept, which settles it


def adversarial() -> dict[str, Case]:
    """Rows of 300 tokens at the edges of the rules."""
    places = np.arange(300)
    flat: F32 = np.zeros(300, np.float32)
    steps: F32 = (-places / 8).astype(np.float32)
    alone: F32 = np.full(300, -np.inf, np.float32)
    alone[7] = 3.0
    bad = {name: steps.copy() for name in ("nan", "inf", "masked nan", "banned inf")}
    bad["nan"][200] = bad["masked nan"][200] = math.nan
    bad["inf"][299] = bad["banned inf"][299] = math.inf
    quarter = np.log(np.array([0.25] * 4 + [1e-30] * 296, np.float32))
    return {
        "nan": Case(bad["nan"]),
        "inf": Case(bad["inf"]),
        "masked nan": Case(bad["masked nan"], allowed=frozenset({1, 2})),
        "banned inf": Case(bad["banned inf"], {"bad_words": ((299,),)}),
        "nothing": Case(np.full(300, -np.inf, np.float32)),
        "mask of nothing": Case(alone, allowed=frozenset({1, 2})),
        "all banned": Case(alone, {"bad_words": ((7,),)}),
        "flat": Case(flat, uniform=0.3),
        "tie beyond what is seen": Case(flat, {"top_p": 0.5}, uniform=0.99),
        "number at an end": Case(quarter, uniform=0.5),
        "share at an end": Case(quarter, {"top_p": 0.5}, uniform=0.99999),
        "beyond": Case(flat, {"top_k": 280}, uniform=0.2),
        "last": Case(steps, {"temperature": 50.0}, uniform=1.0 - 2**-53),
        "one left": Case(alone, uniform=0.999),
        "one allowed": Case(steps, {"top_p": 0.9}, 0.7, allowed=frozenset({150})),
        "greedy tie": Case((places % 7 == 3).astype(np.float32), {"temperature": 0.0}),
        "tiny top_p": Case(quarter, {"top_p": 1e-9}, uniform=0.999999),
        "huge bias": Case(steps * np.float32(1e4), {"logit_bias": ((290, 100.0),)}),
        "lowest": Case(np.where(places == 5, np.float32(0), np.finfo(np.float32).min)),
        "huge temperature": Case(steps, {"temperature": 1e9, "top_k": 200}, uniform=0.4321),
        "cut in a tie": Case(flat, {"top_k": 5}, uniform=0.5),
        "number within a tie": Case(flat, {"top_k": 200}, uniform=0.501),
    }


UNSETTLED = ("nan", "inf", "masked nan", "banned inf", "nothing", "mask of nothing", "all banned", "flat",
             "tie beyond what is seen", "number at an end", "share at an end", "beyond", "last", "cut in a tie",
             "number within a tie")  # fmt: skip


def test_rows_at_the_edges(head: Head) -> None:
    cases = adversarial()
    told = head(list(cases.values()))
    is_settled = dict(zip(cases, (told[io.SETTLED] & io.TOKEN_SETTLED).tolist(), strict=True))
    assert is_settled == {name: int(name not in UNSETTLED) for name in cases}
    check(list(cases.values()), told)
    listed = dict(zip(cases, (told[io.SETTLED] & io.TOP_SETTLED).tolist(), strict=True))
    assert not listed["flat"]  # the least of those told equals the least seen: others may have lower ids
    assert listed["beyond"] == listed["flat"]
    assert listed["greedy tie"]
    assert listed["last"]


def test_equal_logits_are_told_by_their_ids(head: Head) -> None:
    """40 of 400 tokens are largest: more than are told, fewer than are seen."""
    logits = np.zeros(400, np.float32)
    logits[::10] = 1.0
    cases = [Case(logits, {"top_k": 40}, (place + 0.5) / 40) for place in range(40)]
    told = head(cases)
    assert told[io.DRAWN].tolist() == list(range(0, 400, 10))
    assert set(told[io.SETTLED].tolist()) == {io.TOKEN_SETTLED | io.TOP_SETTLED}
    assert told[io.TOP_IDS][0].tolist() == list(range(0, 200, 10))
    assert told[io.TOP_LOGPROBS][0] == pytest.approx([1.0 - math.log(40 * math.e + 360)] * 20, abs=1e-6)


@pytest.mark.parametrize("rules", [{}, {"top_p": 0.9}, {"top_k": 40}, {"min_p": 0.02, "top_p": 0.8}], ids=str)
def test_the_head_draws_as_the_host_over_all_numbers(head: Head, rules: dict[str, float]) -> None:
    """A token's numbers are one stretch, so both draw alike in it if they do at its ends: 100,000 draws are counted.

    ``test_token_choice`` holds the host's counts to the probabilities by chi-square.
    """
    logits, sampling = row("zipf", 5, 150), {"temperature": 1.3, **rules}
    params = SamplingParams(max_tokens=1, **sampling)  # type: ignore[arg-type]
    numbers = np.sort(np.random.default_rng(11).random(100_000))

    def host(place: int) -> int | None:
        return draw(logits, params, float(numbers[place]))

    ends, place = [], 0
    while place < len(numbers):
        token, last = host(place), len(numbers) - 1
        low, high = place, last
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if host(middle) == token else (low, middle - 1)
        ends.append((token, place, low))
        place = low + 1
    inner = [(token, first + 9, last - 9) for token, first, last in ends if last - first > 18]
    cases = [Case(logits, sampling, float(numbers[at])) for _, first, last in inner for at in (first, last)]
    told = head(cases)
    agreed = told[io.SETTLED] & io.TOKEN_SETTLED
    wanted = [token for token, _, _ in inner for _ in range(2)]
    assert [int(one) for one, bit in zip(told[io.DRAWN], agreed, strict=True) if bit] == list(
        itertools.compress(wanted, agreed.tolist())
    )
    assert agreed.mean() > 0.9


def test_the_graph_is_valid_and_the_same_every_time(tmp_path: Path) -> None:
    paths = [write_selection_graph(tmp_path / name, 97, TRT_OPSET, has_mask=True) for name in ("a", "b")]
    graph = onnx.load(paths[0])
    onnx.checker.check_model(graph, full_check=True)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert len(graph.graph.node) <= 210
    assert {node.domain for node in graph.graph.node} == {""}


def test_tensorrt_compiles_it_for_gpus_that_are_not_here(tmp_path: Path) -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    path = write_selection_graph(tmp_path, 151_936, TRT_OPSET, has_mask=True)
    builder = trt.Builder(trt.Logger(trt.Logger.ERROR))
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, trt.Logger(trt.Logger.ERROR))
    assert parser.parse_from_file(str(path)), parser.get_error(0).desc()
    kinds = {network.get_layer(index).type.name for index in range(network.num_layers)}
    assert not any(kind.startswith("PLUGIN") for kind in kinds)
    config = builder.create_builder_config()
    config.num_compute_capabilities = 3
    for place, name in enumerate(("SM80", "SM89", "SM120")):
        config.set_compute_capability(getattr(trt.ComputeCapability, name), place)
    profile = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        value = network.get_input(index)
        rest = tuple(value.shape)[1:]
        profile.set_shape(value.name, (1, *rest), (32, *rest), (64, *rest))
    config.add_optimization_profile(profile)
    assert builder.build_serialized_network(network, config) is not None
