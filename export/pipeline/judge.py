"""Is a step's result there, and if not, why not? The same question for a build and for its rehearsal."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from export.pipeline.cache import Cache, Entry, Stored
from export.pipeline.gates import Finding, Measures, Subject, held_to
from export.pipeline.keys import differences
from export.pipeline.measures import measures_of
from export.pipeline.steps import CachedStep, Done, PlaceStep, Step

_MOST_REASONS = 3


@dataclass(frozen=True, slots=True)
class Verdict:
    """``stored`` is the result of a step that is fresh, if it lies in the cache; ``why`` says why one is not.

    ``findings`` are what came of the gates of a package; ``is_refused``: one of them does not let it pass.
    """

    is_fresh: bool
    stored: Stored | None = None
    why: str = ""
    findings: tuple[Finding, ...] = ()

    @property
    def is_refused(self) -> bool:
        """Whether the step may not be done."""
        return not all(finding.passes for finding in self.findings)


class Judge:
    """Looks into ``cache``. ``refetch``: names of fetch steps whose results count as gone.

    ``baseline`` are the figures of an earlier build, from which gates may count.
    """

    def __init__(
        self, cache: Cache, *, refetch: Collection[str] = (), baseline: Mapping[Subject, Measures] | None = None
    ) -> None:
        self._cache, self._refetch, self._baseline = cache, set(refetch), baseline or {}
        self._newest: dict[tuple[str, str], Entry] | None = None

    def verdict(self, step: Step, done: Done) -> Verdict:
        """``done`` has all that the step needs. Raises PowertrainError for a step that cannot be meant."""
        if isinstance(step, PlaceStep):
            return self._placing(step, done)
        if not isinstance(step, CachedStep):
            raise TypeError(f"{step.name} has no result that can be looked for")
        identity = step.identity(done)
        stored = self._cache.find(identity.key)
        if step.name in self._refetch:
            return Verdict(False, None, "asked to fetch again")
        if stored is not None:
            return Verdict(True, stored)
        return Verdict(False, None, self._reason(identity.kind, identity.label, identity.key, identity.inputs))

    def _placing(self, step: PlaceStep, done: Done) -> Verdict:
        """A package that is in place already, but not through a gate of today, is refused all the same."""
        findings = tuple(held_to(step.gates, step.label, measures_of(step, done) if step.gates else {}, self._baseline))
        if refusals := [one.text for one in findings if not one.passes]:
            return Verdict(False, None, "; ".join(refusals), findings)
        missing = step.missing(done)
        return Verdict(not missing, None, f"not in place: {', '.join(missing)}" if missing else "", findings)

    def _reason(self, kind: str, label: str, key: str, inputs: Mapping[str, str]) -> str:
        if self._newest is None:  # the oldest first, so that the newest of a name remains
            entries = sorted((stored.entry for stored in self._cache.entries()), key=lambda one: one.created_unix)
            self._newest = {(entry.kind, entry.label): entry for entry in entries}
        old = self._newest.get((kind, label))
        if old is None:
            return "not built yet"
        reasons = differences(old.inputs, inputs)
        if old.key == key or not reasons:
            return "files of it are missing in the cache"
        more = f" and {len(reasons) - _MOST_REASONS} more" if len(reasons) > _MOST_REASONS else ""
        return ", ".join(reasons[:_MOST_REASONS]) + more


@dataclass(frozen=True, slots=True)
class Prospect:
    """A step as a rehearsal sees it. ``done`` are the results of its needs, as far as they are there."""

    step: Step
    verdict: Verdict
    done: Done


def rehearse(steps: Collection[Step], look: Callable[[Step, Done], Verdict]) -> list[Prospect]:
    """What a build would do with each step now, in graph order."""
    results: dict[str, Stored] = {}
    fresh: set[str] = set()
    found = []
    for step in steps:
        done = {name: results[name] for name in step.needs if name in results}
        late = [name for name in step.needs if name not in fresh]
        verdict = Verdict(False, None, f"after {late[-1]}") if late else look(step, done)
        if verdict.is_fresh:
            fresh.add(step.name)
        if verdict.stored is not None:
            results[step.name] = verdict.stored
        found.append(Prospect(step, verdict, done))
    return found
