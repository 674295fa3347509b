"""Arrival processes, lengths, texts and workloads: exact by construction or by statistics with a fixed seed."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel

from bench.errors import BenchError
from bench.http.arrivals import ArrivalPattern, Arrivals
from bench.http.endpoint import Message
from bench.http.lengths import Lengths, parse_lengths
from bench.http.tokens import TokenCounter, load_counter, synthetic_text, text_of_file
from bench.http.workload import GeneratedWorkload, recorded_chats, recorded_trace
from bench.metrics.slo import PRESETS, Objective, parse_objectives, preset

WORDS = TokenCounter(None)


def first_starts(arrivals: Arrivals, count: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return np.array(list(itertools.islice(arrivals.starts_s(np.random.default_rng(7)), count)))


def test_constant_arrivals_are_exact() -> None:
    arrivals = Arrivals(pattern=ArrivalPattern.CONSTANT, rate_per_s=4.0)
    assert first_starts(arrivals, 4).tolist() == [0.0, 0.25, 0.5, 0.75]


@pytest.mark.parametrize(
    ("pattern", "burstiness", "variation"),
    [(ArrivalPattern.POISSON, 1.0, 1.0), (ArrivalPattern.GAMMA, 0.25, 2.0), (ArrivalPattern.GAMMA, 4.0, 0.5)],
)
def test_random_arrivals_have_their_rate_and_spread(
    pattern: ArrivalPattern, burstiness: float, variation: float
) -> None:
    gaps = np.diff(first_starts(Arrivals(pattern=pattern, rate_per_s=10.0, burstiness=burstiness), 20_001))
    assert gaps.mean() == pytest.approx(0.1, rel=0.03)
    assert gaps.std() / gaps.mean() == pytest.approx(variation, rel=0.05)  # 1 / sqrt(shape)


def test_ramp_climbs_to_the_rate() -> None:
    # Rate r(t) = 10 t / 2 for 2 s: 10 arrivals by then, after that one every 0.1 s.
    starts = first_starts(Arrivals(pattern=ArrivalPattern.CONSTANT, rate_per_s=10.0, ramp_s=2.0), 13)
    assert starts[10:].tolist() == pytest.approx([2.0, 2.1, 2.2])
    assert starts[5] == pytest.approx((2 * 2 * 5 / 10) ** 0.5)


def test_lengths() -> None:
    assert parse_lengths("128") == Lengths(128, 128, 128.0)
    assert parse_lengths("64-256") == Lengths(64, 256, 160.0)
    assert parse_lengths("128+-32") == Lengths(1, 0, 128.0, 32.0)
    rng = np.random.default_rng(0)
    assert {parse_lengths("3-5").draw(rng) for _ in range(200)} == {3, 4, 5}
    normal = [parse_lengths("100±30").draw(rng) for _ in range(4000)]
    assert np.mean(normal) == pytest.approx(100, abs=2)
    assert np.std(normal) == pytest.approx(30, abs=2)
    assert min(parse_lengths("1+-50").draw(rng) for _ in range(100)) == 1
    for bad in ("", "0", "5-3", "a", "-4", "10+-0", "1.5"):
        with pytest.raises(BenchError, match="LOW-HIGH"):
            parse_lengths(bad)


def test_objectives() -> None:
    assert parse_objectives("ttft:200 tpot:50") == (Objective("ttft", 200.0), Objective("tpot", 50.0))
    assert parse_objectives("time_to_first_token:50,inter_token_latency:10") == (
        Objective("ttft", 50.0),
        Objective("tpot", 10.0),
    )
    assert preset("mlperf-llama3.1-8b-interactive") == (Objective("ttft", 500), Objective("tpot", 30))
    assert len(PRESETS) == 8
    for bad in ("ttft", "speed:3", "ttft:-1", "ttft:x"):
        with pytest.raises(BenchError, match="NAME:MILLISECONDS"):
            parse_objectives(bad)
    with pytest.raises(BenchError, match=r"known: mlperf-llama3\.1-8b-server"):
        preset("nope")


def letters() -> TokenCounter:
    """A tokenizer that knows single bytes only: no word is one token, so texts must be repaired to fit."""
    alphabet = ByteLevel.alphabet()
    tokenizer = Tokenizer(BPE(vocab={letter: number for number, letter in enumerate(sorted(alphabet))}, merges=[]))
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    return TokenCounter(tokenizer)


def test_synthetic_texts_have_exactly_the_asked_tokens() -> None:
    rng = np.random.default_rng(1)
    words = synthetic_text(WORDS)
    assert words.additive
    assert WORDS.count(words.text(77, rng)) == 77

    hard = synthetic_text(letters())
    assert not hard.additive
    wanted = [1, 2, 40, 41, 42, 43]
    assert [letters().count(hard.text(count, rng)) for count in wanted] == wanted


def test_texts_of_a_file_are_its_words_in_order(tmp_path: Path) -> None:
    path = tmp_path / "book.txt"
    path.write_text("one two three\nfour", encoding="utf-8")
    text = text_of_file(path, WORDS).text(6, np.random.default_rng(0))
    circle = ["one", "two", "three", "four"] * 3
    start = circle.index(text.split()[0])
    assert text.split() == circle[start : start + 6]
    with pytest.raises(BenchError, match=r"cannot read missing\.txt"):
        text_of_file(tmp_path / "missing.txt", WORDS)


def test_generated_prompts_are_unique_and_share_only_the_asked_prefix() -> None:
    workload = GeneratedWorkload(
        text=synthetic_text(WORDS),
        prompt_tokens=Lengths(30, 30, 30.0),
        output_tokens=Lengths(5, 9, 7.0),
        num_turns=2,
        think_s=1.5,
        prefix_tokens=50,
        prefix_share=0.5,
    )
    found = list(itertools.islice(workload.conversations(np.random.default_rng(3)), 200))

    openings = [conversation.opening for conversation in found]
    shared = [opening for opening in openings if opening]
    assert len({opening[0].content for opening in shared}) == 1
    assert WORDS.count(shared[0][0].content) == 50
    assert len(shared) / len(found) == pytest.approx(0.5, abs=0.1)
    texts = [turn.text for conversation in found for turn in conversation.turns]
    assert len(set(texts)) == 400
    assert [turn.think_s for turn in found[0].turns] == [0.0, 1.5]
    assert {turn.max_tokens for conversation in found for turn in conversation.turns} == {5, 6, 7, 8, 9}
    again = list(itertools.islice(workload.conversations(np.random.default_rng(3)), 200))
    assert again == found


def test_recorded_chats_in_three_forms(tmp_path: Path) -> None:
    path = tmp_path / "chats.jsonl"
    path.write_text(
        '{"conversations":[{"from":"human","value":"hi"},{"from":"gpt","value":"a b c"},'
        '{"from":"human","value":"q"}]}\n'
        '{"messages":[{"role":"system","content":"s"},{"role":"user","content":"u"}]}\n'
        "\n"
        '{"prompt":"p","output_tokens":9}\n',
        encoding="utf-8",
    )
    rng = np.random.default_rng(0)

    workload = recorded_chats(path, WORDS, None, 5, rng)
    turns = [[(turn.text, turn.max_tokens) for turn in item.turns] for item in workload.items]
    assert turns == [[("hi", 3), ("q", 128)], [("u", 128)], [("p", 9)]]
    assert workload.items[1].opening == (Message("system", "s"),)

    short = recorded_chats(path, WORDS, Lengths(4, 4, 4.0), 1, rng)
    assert [[turn.max_tokens for turn in item.turns] for item in short.items] == [[4], [4], [4]]

    path.write_text('{"messages": 3}\n', encoding="utf-8")
    with pytest.raises(BenchError, match=r"chats.jsonl line 1 is not usable"):
        recorded_chats(path, WORDS, None, 5, rng)


def test_traces_start_at_zero_and_can_run_faster(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_text(
        '{"timestamp": 9000, "input_length": 12, "output_length": 3}\n'
        '{"timestamp": 5000, "prompt": "given", "output_length": 1, "hash_ids": [1]}\n',
        encoding="utf-8",
    )
    workload = recorded_trace(path, synthetic_text(WORDS), 2.0, np.random.default_rng(0))

    assert [item.start_s for item in workload.items] == [0.0, 2.0]
    assert workload.items[0].turns[0].text == "given"
    assert WORDS.count(workload.items[1].turns[0].text) == 12
    assert len(list(workload.conversations(np.random.default_rng(0)))) == 2

    path.write_text('{"timestamp": 1, "output_length": 1}\n', encoding="utf-8")
    with pytest.raises(BenchError, match="neither prompt, messages nor input_length"):
        recorded_trace(path, synthetic_text(WORDS), 1.0, np.random.default_rng(0))


def test_tokenizer_files(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="no tokenizer at"):
        load_counter(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}", encoding="utf-8")
    with pytest.raises(BenchError, match=r"tokenizer.json is not a tokenizer"):
        load_counter(tmp_path)
    tokenizer = Tokenizer(BPE(vocab={"a": 0}, merges=[]))
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert load_counter(tmp_path).count("aaa") == 3
