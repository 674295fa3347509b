"""The engine's own settings. Values only; the API's settings and the command line fill them in."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """How the engine schedules.

    max_queue                requests that may wait beyond those that run; one more is refused
    max_predicted_wait_s     a request that would wait longer before its prompt's turn is refused; None = no limit
    max_queue_time_s         a request that waits longer ends as expired; None = no limit
    prefill_chunk_tokens     prompt tokens computed per step while others decode: bounds how long they stall; None =
                             what the session says
    idle_prefill_chunk_tokens  the same while nobody decodes
    copy_bytes_per_step      bytes of cache rows copied per step while others decode: bounds how long they stall when
                             choices start from a long cached prompt, or a sequence moves to another slot; eight times
                             as many while nobody decodes, so that requests are taken in and ended meanwhile; None =
                             what the session says
    prefix_cache             reuse the cache rows of earlier prompts
    deterministic            reuse only rows that a prefill computed, so that a cached answer equals an uncached one
                             bit by bit
    max_draft_tokens         tokens that prompt lookup, or what a constraint forces, may guess ahead while a sequence
                             decodes alone; 0 switches it off, and so does ``deterministic``
    run_ahead                launch the next decode call before the one that runs was waited for, where the session can
    warm_up_ids              prompt of the generation before READY: a typical one leaves what every prompt begins
                             with in the prefix cache; empty takes a few arbitrary tokens
    watchdog_s               seconds awake without progress, with work at hand, after which the engine counts as hung
    """

    max_queue: int = 256
    max_predicted_wait_s: float | None = None
    max_queue_time_s: float | None = None
    prefill_chunk_tokens: int | None = None
    idle_prefill_chunk_tokens: int | None = None
    copy_bytes_per_step: int | None = None
    prefix_cache: bool = True
    deterministic: bool = False
    max_draft_tokens: int = 0
    run_ahead: bool = True
    warm_up_ids: tuple[int, ...] = ()
    watchdog_s: float = 120.0

    @property
    def drafts(self) -> bool:
        """True when tokens may be guessed."""
        return self.max_draft_tokens > 0 and not self.deterministic
