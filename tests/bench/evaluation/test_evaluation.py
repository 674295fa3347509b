"""What a text scores, how answers are chosen and compared, and what the command concludes. Values by hand."""

from __future__ import annotations

import importlib.util
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner, Result

from bench.commands.evaluate_run import EvalFlags, broken_gates
from bench.errors import BenchError
from bench.evaluation import task
from bench.evaluation.evaluate import Evaluation, evaluate, paired_change
from bench.evaluation.greedy_text import GreedyText
from bench.evaluation.scorer import PIECE_TOKENS, Scorer
from bench.evaluation.tables import change_table, evaluation_table, load_evaluation
from bench.evaluation.task import Question
from powertrain import main
from runtime.package.manifest import Package
from runtime.text.tokenizer import Tokenizer
from tests.fakes import CHOSEN_LOGIT, ScriptedSession, counting

VOCAB = 512
NORMALISER = math.log(math.exp(CHOSEN_LOGIT) + VOCAB - 1)
CHOSEN, OTHER = CHOSEN_LOGIT - NORMALISER, -NORMALISER  # of a token after ``counting``


def codes(text: str) -> list[int]:
    """A token per character, by its number: the model of ``counting`` expects the alphabet."""
    return [ord(character) for character in text]


def with_first(text: str) -> list[int]:
    return [96, *codes(text)]


def scorer(encode: Callable[[str], list[int]] = codes, **session: Any) -> tuple[Scorer, ScriptedSession]:
    fake = ScriptedSession(counting, num_slots=1, vocab_size=VOCAB, **session)
    return Scorer(fake, encode, start_id=96), fake


def test_a_choice_s_log_probability_is_the_sum_of_its_tokens_after_the_context() -> None:
    scores, session = scorer()
    found = scores.continuations("xab", ["cd", "cx", "d"])
    assert [score.log_prob for score in found] == pytest.approx([2 * CHOSEN, CHOSEN + OTHER, OTHER])
    assert [(score.num_tokens, score.is_greedy) for score in found] == [(2, True), (2, False), (1, False)]
    prefills = [(call.start, call.tokens) for call in session.calls]
    assert prefills == [(0, (120, 97)), (2, (98, 99, 100)), (2, (98, 99, 120)), (2, (98, 100))]  # the context once
    scores.continuations("yab", ["c"])
    assert session.calls[-2].tokens == (121, 97)  # another of the same length
    scores.forget()
    scores.continuations("yab", ["c"])
    assert session.calls[-2].tokens == (121, 97)


def test_a_context_of_one_token_and_none_at_all() -> None:
    scores, session = scorer()
    assert scores.continuations("a", ["b"])[0].log_prob == pytest.approx(CHOSEN)
    assert scores.continuations("", ["a"])[0].log_prob == pytest.approx(CHOSEN)  # after the start token, 96
    assert session.calls[-1].tokens == (96, 97)
    first, session = scorer(with_first)
    assert first.continuations("", ["a"])[0].log_prob == pytest.approx(CHOSEN)  # the model's own first token is 96
    assert session.calls[-1].tokens == (96, 97)


def test_long_texts_go_in_pieces_and_lose_their_beginning_only() -> None:
    scores, session = scorer(max_model_len=100)
    alphabet = "".join(map(chr, range(97, 97 + 99)))
    found = scores.continuations("zzzz" + alphabet[:30], [alphabet[30:]])[0]
    assert (found.num_tokens, found.is_greedy) == (69, True)
    assert found.log_prob == pytest.approx(69 * CHOSEN, rel=1e-4)
    assert [len(call.tokens) for call in session.calls] == [30, 32, 32, 6]
    assert session.rows[0] == codes("z" + alphabet)  # 100 of 103 tokens fit
    assert not scores.continuations("a", ["x" + alphabet[2:40]])[0].is_greedy  # in the first of two pieces
    too_long = scores.continuations("a", ["".join(map(chr, range(98, 98 + 120)))])[0]
    assert too_long.num_tokens == 99
    exact = scores.continuations("a", [alphabet[1 : PIECE_TOKENS + 1]])[0]
    assert [len(call.tokens) for call in session.calls[-2:]] == [31, 2]  # never one token alone
    assert exact.log_prob == pytest.approx(PIECE_TOKENS * CHOSEN)


@pytest.mark.parametrize(("encode", "tokens"), [(codes, 3), (with_first, 3)])
def test_a_whole_text_counts_every_token_but_the_model_s_own_first(
    encode: Callable[[str], list[int]], tokens: int
) -> None:
    scores, _ = scorer(encode)
    found = scores.rolling("abd")
    assert (found.num_tokens, found.is_greedy) == (tokens, False)
    assert found.log_prob == pytest.approx(2 * CHOSEN + OTHER)
    assert scores.rolling("").num_tokens == 0


def test_a_text_longer_than_the_slot_is_predicted_window_by_window() -> None:
    scores, session = scorer(max_model_len=5)
    assert scores.rolling("abcdefgh").num_tokens == 8
    assert [call.tokens for call in session.calls] == [(96, 97, 98, 99, 100), (96, 101, 102, 103, 104)]
    assert scores.rolling("abcdefgh").log_prob == pytest.approx(7 * CHOSEN + OTHER)  # e does not follow the start


def test_a_model_of_no_numbers_is_an_error() -> None:
    broken = Scorer(ScriptedSession(lambda _: np.full(VOCAB, np.nan, np.float32), vocab_size=VOCAB), codes, 0)
    with pytest.raises(BenchError, match="no numbers"):
        broken.continuations("ab", ["c"])


def evaluated(**changes: Any) -> Evaluation:
    """Four questions: right; right by bytes only; wrong; right."""
    questions = (
        Question("", ("b", "z"), 0),
        Question("", ("bz", "z"), 0),
        Question("", ("z", "b"), 0),
        Question("", ("z", "b"), 1),
    )

    class Fixed:
        """Log-probabilities by the text alone."""

        def continuations(self, _context: str, choices: tuple[str, ...]) -> list[Any]:
            return [type("Score", (), {"log_prob": {" b": -1.0, " bz": -2.4, " z": -2.0}[each]}) for each in choices]

        rolling = staticmethod(lambda text: type("Score", (), {"log_prob": -3.0 * len(text), "num_tokens": len(text)}))

    given: dict[str, Any] = {
        "model": "m", "manifest_sha256": "0" * 64, "backend": "cpu", "environment": {}, "show": lambda _: None
    }  # fmt: skip
    found = evaluate(Fixed(), questions, ("abc", "ab"), **given)  # type: ignore[arg-type]
    return msgspec.structs.replace(found, **changes)


def test_answers_are_the_likeliest_and_averages_are_those_of_the_field() -> None:
    found = evaluated()
    assert (found.right, found.right_per_byte) == ([True, False, False, True], [True, True, False, True])
    assert (found.accuracy, found.accuracy_per_byte) == (0.5, 0.75)
    assert found.accuracy_error == pytest.approx(math.sqrt(0.25 / 3))
    assert found.perplexity == pytest.approx(math.exp(3))
    assert found.bits_per_byte == pytest.approx(3 / math.log(2))
    table = evaluation_table(found)
    assert table.title == "m on cpu: built-in questions and prose, 1st edition"
    assert ("accuracy", "0.500 ± 0.289", "4 questions") in table.rows


def test_two_packages_are_compared_question_by_question() -> None:
    before = evaluated(right=[True] * 6 + [False], perplexity=10.0)
    after = evaluated(right=[True, True] + [False] * 4 + [True], perplexity=11.0)
    change = paired_change(after, before)
    assert (change.lost, change.gained) == (4, 1)
    assert change.p_value == pytest.approx(2 * (1 + 5) / 2**5)
    assert change.perplexity_ratio == pytest.approx(1.1)
    assert paired_change(before, before).p_value == 1.0
    assert ("questions lost, gained", "4, 1") in change_table(change, before).rows


def test_a_loss_beyond_the_gate_is_told_and_a_gain_is_not() -> None:
    given: dict[str, Any] = dict.fromkeys(EvalFlags.__struct_fields__)
    flags = EvalFlags(**given | {"backend": "cpu", "max_lost": 1})
    before, after = evaluated(right=[True, True, True, False]), evaluated(right=[False, True, False, False])
    assert broken_gates(after, before, flags) == ["2 questions are lost and 0 gained, a loss of 1 is allowed"]
    assert broken_gates(before, after, flags) == []


def test_a_result_of_another_kind_or_task_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "eval.json"
    path.write_bytes(msgspec.json.encode(evaluated()))
    assert load_evaluation(path) == evaluated()
    path.write_bytes(msgspec.json.encode(evaluated(task="something else")))
    with pytest.raises(BenchError, match="something else"):
        load_evaluation(path)
    path.write_text("{}")
    with pytest.raises(BenchError, match="is no result"):
        load_evaluation(path)
    with pytest.raises(BenchError, match=r"cannot read gone\.json"):
        load_evaluation(tmp_path / "gone.json")


def test_what_comes_along_is_whole() -> None:
    questions = task.questions()
    assert len(questions) == len({each.question for each in questions}) == 120
    assert all(len(set(each.choices)) == 4 and 0 <= each.answer < 4 for each in questions)
    answers = [sum(each.answer == place for each in questions) for place in range(4)]
    assert min(answers) > 15  # no place is the right one too often
    assert len(task.prose()) == 11
    assert questions[0].context == "Question: What do bees collect from flowers to make honey?\nAnswer:"


def test_a_text_is_written_up_to_a_stop_string_or_a_length(default_package: Package) -> None:
    tokenizer = Tokenizer.from_package(default_package)
    answer = tokenizer.encode_plain(" one two. three four")
    start = len(tokenizer.encode_plain("Count:", add_special_tokens=True))
    script = [*answer, 2, 2]
    writer = GreedyText(
        ScriptedSession(lambda history: script[len(history) - start], vocab_size=tokenizer.vocab_size),
        tokenizer,
        frozenset({2}),
    )
    assert writer.after("Count:", (".", "four"), 64) == " one two"
    assert writer.after("Count:", ("", "never"), 64) == " one two. three four"
    assert writer.after("Count:", (), 2) == " one two"
    assert writer.after("Count:", ("wo", "two"), 64) == " one "


def run(*words: str) -> Result:
    return CliRunner().invoke(main, ["eval", *words])


@pytest.mark.model
def test_the_command_holds_the_default_model_to_its_gates(
    default_package: Package, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    questions, prose = task.questions()[:3], task.prose()[:1]
    monkeypatch.setattr("bench.commands.evaluate_run.questions", lambda: questions)
    monkeypatch.setattr("bench.commands.evaluate_run.prose", lambda: prose)
    model = str(default_package.root)
    done = run(model, "-o", str(tmp_path), "--json", "--min-accuracy", "1", "--max-perplexity", "2")
    assert done.exit_code == 4, done.output
    result = json.loads(done.stdout)
    assert result == json.loads((tmp_path / "eval.json").read_bytes())
    assert result["right"] == [True, True, True] or "accuracy is" in done.stderr
    assert 1 < result["bits_per_byte"] < 2
    assert "perplexity is" in done.stderr
    again = run(model, "--baseline", str(tmp_path / "eval.json"), "--max-lost", "0", "--max-bits-per-byte", "2")
    assert again.exit_code == 0, again.output
    assert "questions lost, gained" in again.stdout
    assert "1.0000" in again.stdout  # the same package predicts the same


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--max-lost", "1"], "counts against a --baseline"),
        (["--limit", "3"], "is for --lm-eval"),
        (["--lm-eval", "arc_easy", "--min-accuracy", "0.5"], "--min-accuracy holds for the questions that come with"),
        (["--backend", "warp"], "backend 'warp' is unknown"),
    ],
)
def test_flags_that_do_not_fit_are_refused(default_package: Package, words: list[str], told: str) -> None:
    done = run(str(default_package.root), *words)
    assert done.exit_code in {1, 2}
    assert told in " ".join(done.output.split())


LM_EVAL_TASKS = (
    ("choice", "multiple_choice", "{{question}}", """
doc_to_choice: choices
doc_to_target: answer
metric_list: [{metric: acc}]
"""),
    ("rolling", "loglikelihood_rolling", "", """
doc_to_target: "{{question}}"
metric_list: [{metric: bits_per_byte}]
"""),
    ("text", "generate_until", "{{question}}", """
doc_to_target: " Paris"
generation_kwargs: {until: ["."], max_gen_toks: 4}
metric_list: [{metric: exact_match}]
"""),
)  # fmt: skip


@pytest.mark.skipif(importlib.util.find_spec("lm_eval") is None, reason="lm-eval is not installed")
def test_lm_eval_s_tasks_run_in_process(default_package: Package, tmp_path: Path) -> None:
    documents = tmp_path / "questions.jsonl"
    documents.write_text('{"question": "The capital of France is", "choices": [" Paris", " green"], "answer": 0}\n')
    for name, kind, context, rest in LM_EVAL_TASKS:
        (tmp_path / f"{name}.yaml").write_text(
            f"task: own_{name}\ndataset_path: json\ndataset_kwargs: {{data_files: {{test: {documents}}}}}\n"
            f'test_split: test\noutput_type: {kind}\ndoc_to_text: "{context}"\n{rest}\n'
        )
    words = ["--lm-eval", "own_choice,own_rolling,own_text", "--include-path", str(tmp_path), "--json"]
    done = run(str(default_package.root), *words)
    assert done.exit_code == 0, done.output
    results = json.loads(done.stdout.splitlines()[-1])
    assert results["own_choice"]["acc,none"] == 1.0
    assert 0 < results["own_rolling"]["bits_per_byte,none"] < 10
    assert 0 <= results["own_text"]["exact_match,none"] <= 1
    assert "lm-eval knows no task 'never'" in run(str(default_package.root), "--lm-eval", "never").output
