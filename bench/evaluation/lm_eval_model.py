"""A scorer as lm-eval's kind of model, so that its task files run in this process. Imported where lm-eval is installed.

Knows lm-eval's three questions to a model; its tasks, prompts and metrics are its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from lm_eval.api.model import LM

from bench.evaluation.scorer import Scorer

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance

_MAX_NEW_TOKENS = 256

Generate = Callable[[str, Sequence[str], int], str]


class ScoredModel(LM):  # type: ignore[misc,no-any-unimported,unused-ignore]
    """lm-eval's model over a scorer; ``generate`` gives what follows a text, up to stop strings or a length."""

    def __init__(self, scorer: Scorer, generate: Generate) -> None:
        super().__init__()
        self._scorer = scorer
        self._generate = generate

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """Each (context, continuation): its log-probability in nats, and whether decoding greedily would write it."""
        scores = [self._scorer.continuations(context, [text])[0] for context, text in _arguments(requests)]
        return [(score.log_prob, score.is_greedy) for score in scores]

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        """Each text's whole log-probability in nats."""
        return [self._scorer.rolling(text).log_prob for (text,) in _arguments(requests)]

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """Each (context, how): what follows, greedily."""
        return [
            self._generate(context, how.get("until") or [], int(how.get("max_gen_toks", _MAX_NEW_TOKENS)))
            for context, how in _arguments(requests)
        ]


def _arguments(requests: list[Instance]) -> list[Any]:
    return [request.args for request in requests]
