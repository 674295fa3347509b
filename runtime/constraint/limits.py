"""Every bound on what a client may demand of an answer's text, and what each stands for.

Sizes are measured before anything is compiled; the library's own limits hold while it compiles and decodes. Knows no
grammar.
"""

from __future__ import annotations

import llguidance

# Sizes of what was asked, before anything is done with it.
MAX_SPEC_CHARS = 1_500_000
"""All texts of one constraint together."""
MAX_PARTS = 4_096
MAX_PART_DEPTH = 32
MAX_PATTERN_CHARS = 16_384
MAX_PATTERN_POSITIONS = 10_000
"""Characters of a pattern after its counted repetitions are written out: ``(ab){3}`` has 6."""
MAX_PATTERN_DEPTH = 64
MAX_CHOICES = 50_000
MAX_LARK_BYTES = 64 * 1024
MAX_LARK_REPEAT = 1_000

# The library's own limits; its speeds and sizes are those of its documentation.
MAX_ITEMS_IN_ROW = 2_000
"""Ways to read the text so far, at one position. An object with n properties that may all be left out has 4 n."""
MAX_LARK_ITEMS_IN_ROW = 500
"""The same for a client's grammar, where ambiguity multiplies them: 500 keep a mask below 50 ms."""
MAX_FORCED_TOKENS = 1_024
"""Of a stretch of text without a choice: the library writes the rest of it anew for each of its tokens."""
MAX_LEXER_STATES = 50_000
"""1 to 2 kB each, shared by all choices that use a constraint."""
INITIAL_LEXER_FUEL = 1_000_000
STEP_LEXER_FUEL = 200_000
STEP_MAX_ITEMS = 50_000
MAX_GRAMMAR_SIZE = 500_000

# Time, of the thread that computes: what other threads take from it does not count.
MAX_MASK_S = 0.050
"""One mask. The choice that needs a longer one ends with an error."""
MAX_QUESTION_S = 0.0005
"""Asking on the engine's own thread whether one token may come. A choice where it takes longer is not asked again."""
BEHIND_WAIT_S = 0.002
"""How long to wait for a mask that has just begun, or is about to: what stood behind a costly one comes in turn."""
MASK_CREDIT_S = 1.0
"""What a choice's masks may take together, on top of MASK_CREDIT_PER_TOKEN_S for each token."""
MASK_CREDIT_PER_TOKEN_S = 0.002

# The process that tries a constraint first.
TRIAL_CPU_S = 1.0
"""Writing the grammar, compiling it and walking some masks, together."""
TRIAL_DEADLINE_S = 4.0
"""The same by the clock on the wall, for a machine that is busy or a process that sleeps."""
TRIAL_WALK_S = 0.3
"""Time, of the computing thread, after which a trial has seen enough masks."""
TRIAL_MEMORY_BYTES = 96 * 2**20
"""On top of what the process has when it starts to work."""
TRIAL_STACK_BYTES = 4 * 2**20
MAX_COMPILED_BYTES = 32 * 2**20
"""What one compiled constraint, with the states of a few masks, may keep of the heap."""

# What one server holds.
MASK_THREADS = 2
COMPILE_QUEUE = 64
"""Constraints that wait or compile at a time; one more is answered with Overloaded."""
CACHED_CONSTRAINTS = 256
CACHED_BYTES = 64 * 2**20
"""Of the heap, as measured when they were tried, and of their texts."""
RECYCLE_TOKENS = 50_000
"""After this many tokens a cached constraint is compiled anew: its lexer keeps every state that it ever saw."""


def parser_limits(*, has_lark: bool, initial_lexer_fuel: int | None = None) -> llguidance.LLParserLimits:
    """The library's limits for compiling and for each mask. Its errors never quote a grammar or a text.

    ``has_lark``: a client's grammar is a part of what is compiled. ``initial_lexer_fuel`` stands in for the limit.
    """
    return llguidance.LLParserLimits(
        max_items_in_row=MAX_LARK_ITEMS_IN_ROW if has_lark else MAX_ITEMS_IN_ROW,
        initial_lexer_fuel=initial_lexer_fuel or INITIAL_LEXER_FUEL,
        step_lexer_fuel=STEP_LEXER_FUEL,
        step_max_items=STEP_MAX_ITEMS,
        max_lexer_states=MAX_LEXER_STATES,
        max_grammar_size=MAX_GRAMMAR_SIZE,
        verbose_errors=False,
    )
