"""Random lives of a scheduler over the scripted cache: no slot leaks, no row is lost, every request ends once."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from runtime.engine.config import EngineConfig
from runtime.engine.decode_span import PATIENCE_STEPS
from runtime.engine.sequence import Phase
from runtime.errors import DeviceError
from runtime.events import FinishReason
from runtime.session.gpu.runner import decode_buckets
from tests.fakes import Call
from tests.runtime.engine_driver import Driver, adding_reply, request

STEMS: tuple[list[int], ...] = ([], list(range(100, 120)), list(range(100, 150)), list(range(200, 240)))


class EngineLife(RuleBasedStateMachine):
    @initialize(
        num_slots=st.integers(1, 5),
        chunk=st.integers(16, 40),
        cache=st.booleans(),
        deterministic=st.booleans(),
        copy_rows=st.sampled_from([7, 60, 2**20]),
        failing=st.sets(st.integers(1, 12)),
        in_buckets=st.booleans(),
    )
    def begin(
        self,
        num_slots: int,
        chunk: int,
        cache: bool,
        deterministic: bool,
        copy_rows: int,
        failing: set[int],
        in_buckets: bool,
    ) -> None:
        config = EngineConfig(
            prefill_chunk_tokens=chunk,
            idle_prefill_chunk_tokens=chunk,
            prefix_cache=cache,
            deterministic=deterministic,
            copy_bytes_per_step=copy_rows,
        )
        self.copy_rows = copy_rows
        buckets = decode_buckets(num_slots) if in_buckets else ()
        self.driver = Driver(num_slots=num_slots, config=config, decode_buckets=buckets)
        self.driver.engine._scheduler._moves._steps_too_large = PATIENCE_STEPS  # lives are short

        def fail_some(_call: Call) -> None:
            """The copies of these numbers fail, counted from the first."""
            if self.driver.session.count("copy") in failing:
                raise DeviceError("a copy failed")

        self.driver.session.before_copy = fail_some
        self.expected: dict[tuple[str, int], list[int]] = {}
        self.aborted: set[str] = set()

    @rule(
        stem=st.sampled_from(STEMS),
        tail=st.lists(st.integers(0, 499), min_size=1, max_size=30),
        max_tokens=st.integers(1, 12),
        n=st.integers(1, 3),
    )
    def arrive(self, stem: list[int], tail: list[int], max_tokens: int, n: int) -> None:
        name = f"r{len(self.expected)}"
        prompt = stem + tail
        self.driver.add(request(name, prompt, max_tokens=max_tokens, n=n))
        for index in range(n):
            self.expected[name, index] = adding_reply(prompt, max_tokens)

    @rule(steps=st.integers(1, 6))
    def work(self, steps: int) -> None:
        for _ in range(steps):
            before, decodes = len(self.driver.session.calls), self._decodes()
            self.driver.step()
            copied = sum(call.start for call in self.driver.session.calls[before:] if call.kind == "copy")
            assert copied <= self.copy_rows or not decodes

    def _decodes(self) -> bool:
        return any(sequence.phase is Phase.DECODE for sequence in self.driver.engine._scheduler.running)

    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        alive = sorted({key[0] for key in self.expected if key not in self.driver.finishes})
        if alive:
            name = data.draw(st.sampled_from(alive))
            self.driver.abort(name)
            self.aborted.add(name)

    @invariant()
    def slots_have_one_owner_each(self) -> None:
        if not hasattr(self, "driver"):
            return
        scheduler = self.driver.engine._scheduler
        owned = {slot: owner for slot, owner in enumerate(scheduler.slots.owners) if owner is not None}
        assert len(owned) == len(scheduler.running)
        assert all(owner.slot == slot for slot, owner in owned.items())

    @invariant()
    def offered_rows_are_in_the_cache(self) -> None:
        if not hasattr(self, "driver"):
            return
        for slot, rows in enumerate(self.driver.engine._scheduler.slots.rows):
            assert self.driver.session.rows[slot][: len(rows)] == list(rows.token_ids[: len(rows)])

    def teardown(self) -> None:
        if not hasattr(self, "driver"):
            return
        self.driver.run()
        assert set(self.driver.finishes) == set(self.expected)
        for key, tokens in self.expected.items():
            generated = self.driver.tokens.get(key, [])
            if self.driver.finishes[key].reason is FinishReason.ABORT:
                assert key[0] in self.aborted
                assert generated == tokens[: len(generated)]
            else:
                assert generated == tokens
        assert self.driver.engine._scheduler.slots.owners == [None] * self.driver.num_slots


TestEngineLife = EngineLife.TestCase
TestEngineLife.settings = settings(max_examples=150, stateful_step_count=30)
