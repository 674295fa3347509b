"""The packages that a fleet serves, as its front knows them: names, context, age. Knows no weights and no tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from api.controllers.models import ModelCard, ModelList, model_card
from api.errors import SettingsError


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetPackage:
    """One package. ``names[0]`` is its base name, by which the replicas know it; ``folder`` is where it lies."""

    names: tuple[str, ...]
    folder: Path
    created_unix: int
    max_model_len: int


class Packages:
    """All packages of a fleet; the first answers requests that name no model. Raises SettingsError for a name that two
    of them have."""

    def __init__(self, packages: Sequence[FleetPackage]) -> None:
        self._all = tuple(packages)
        self._by_name: dict[str, FleetPackage] = {}
        for package in self._all:
            for name in package.names:
                if name in self._by_name:
                    raise SettingsError(
                        f"two packages are served as {name!r}; give one another name when it is exported"
                    )
                self._by_name[name] = package

    def __len__(self) -> int:
        return len(self._all)

    @property
    def max_model_len(self) -> int:
        """The longest context of any."""
        return max(package.max_model_len for package in self._all)

    def base_name(self, model: str | None) -> str:
        """The base name of the package that ``model`` means. A name that nobody has is the first's to refuse."""
        found = None if model is None else self._by_name.get(model)
        return (found or self._all[0]).names[0]

    def listing(self) -> ModelList:
        """Every served name, as ``/v1/models`` lists them."""
        return ModelList(data=[_card(name, package) for package in self._all for name in package.names])


def _card(name: str, package: FleetPackage) -> ModelCard:
    return model_card(
        name, root=package.names[0], created_unix=package.created_unix, max_model_len=package.max_model_len
    )
