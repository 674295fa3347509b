"""What a stream's chunks say beside their choice: token counts so far, and the prompt's ids once. Knows no shape."""

from __future__ import annotations

from msgspec import UNSET, UnsetType

from api.observe.request_record import RequestRecord
from api.response.generation import Update
from api.response.openai_types import Usage
from api.response.renderer import AnswerOptions, usage_of


class StreamCounts:
    """The counts of one streamed answer. ``note`` each update before its chunks are made."""

    def __init__(self, record: RequestRecord, options: AnswerOptions) -> None:
        self._record = record
        self._options = options
        self._counts = dict.fromkeys(range(record.num_choices), (0, 0))
        self._told_prompt = False

    def note(self, update: Update) -> None:
        """The update's choice has this many tokens by now."""
        self._counts[update.index] = (update.num_tokens, update.num_reasoning)

    def usage(self, index: int) -> Usage | UnsetType | None:
        """The usage member of a chunk of choice ``index``: absent unless asked for, null unless asked to be running."""
        options = self._options
        if not options.include_usage:
            return UNSET
        return usage_of(self._record, options, *self._counts[index]) if options.continuous_usage else None

    def total(self) -> Usage | None:
        """The usage of all choices for the last chunk, None when it was not asked for."""
        if not self._options.include_usage:
            return None
        num_tokens, num_reasoning = (sum(counts) for counts in zip(*self._counts.values(), strict=True))
        return usage_of(self._record, self._options, num_tokens, num_reasoning)

    def prompt_ids(self) -> list[int] | UnsetType:
        """The prompt's token ids, for the first chunk alone and when they were asked for."""
        first, self._told_prompt = not self._told_prompt, True
        return self._options.prompt_ids if first else UNSET
