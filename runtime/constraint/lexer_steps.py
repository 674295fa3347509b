"""How many steps a grammar's patterns take, counted by the library: for a refusal that names the measured size.

The library's matchers count nothing that they tell; its interpreter does, after a first mask.
"""

from __future__ import annotations

import llguidance
import msgspec

from runtime.constraint import limits
from runtime.constraint.library_call import LIBRARY_CALL
from runtime.constraint.token_table import TokenTable


class _Stats(msgspec.Struct):
    lexer_cost: int


class _Progress(msgspec.Struct):
    stats: _Stats


class _Told(msgspec.Struct):
    progress: list[_Progress]


def lexer_steps(table: TokenTable, grammar: str, most: int) -> str:
    """``: it takes N``, or ``: it takes more than MOST`` where counting ends; ``most`` bounds what this costs.

    Empty where what is counted is within the limit: the library counts some steps for itself. Raises ConstraintFailed
    where it panics.
    """
    widened = limits.parser_limits(has_lark=False, initial_lexer_fuel=most)
    with LIBRARY_CALL:
        try:
            interpreter = llguidance.LLInterpreter(table.library, grammar, log_level=0, limits=widened)
            interpreter.start_without_prompt()
            _, told = interpreter.compute_mask()
        except ValueError:
            return f": it takes more than {most:,}"
    num_steps = sum(one.stats.lexer_cost for one in msgspec.json.decode(told, type=_Told).progress)
    return f": it takes {num_steps:,}" if num_steps > limits.INITIAL_LEXER_FUEL else ""
