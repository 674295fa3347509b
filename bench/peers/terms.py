"""What every in-process measurement asks for, so that all rows of one table mean the same."""

PROMPT_TOKENS = 130
OUTPUT_TOKENS = 64
REPETITIONS = 5
