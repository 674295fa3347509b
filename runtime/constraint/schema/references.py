"""``$id``, ``$anchor``, ``$ref`` and ``$schema``: which schema a reference names, and which draft reads it.

Looks inside one document: a reference that leaves it is refused, nothing is fetched. Knows no other keyword's meaning.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from urllib.parse import unquote, urldefrag, urljoin

from runtime.constraint.schema.document import JsonValue, pointer
from runtime.constraint.schema.keywords import NEWEST, draft_of
from runtime.errors import SchemaRefused

_ONE = frozenset(
    {
        "additionalItems",
        "additionalProperties",
        "contains",
        "else",
        "if",
        "items",
        "not",
        "propertyNames",
        "then",
        "unevaluatedItems",
        "unevaluatedProperties",
    }
)
_MANY = frozenset({"allOf", "anyOf", "oneOf", "prefixItems", "items"})
_NAMED = frozenset({"$defs", "definitions", "dependencies", "dependentSchemas", "patternProperties", "properties"})


@dataclass(frozen=True, slots=True)
class Scope:
    """One resource: a schema with an address of its own, or the whole document. ``place`` points at its top."""

    base: str
    draft: int
    top: JsonValue
    place: str


@dataclass(frozen=True, slots=True)
class Located:
    """A schema with its place in the document and the scope in which its references are read."""

    schema: JsonValue
    place: str
    scope: Scope


@dataclass(slots=True)
class References:
    """The document's addresses."""

    root: Located
    _resources: dict[str, Located] = field(default_factory=dict)
    _anchors: dict[tuple[str, str], Located] = field(default_factory=dict)
    _has_dynamic: bool = False

    def __init__(self, document: JsonValue) -> None:
        draft = draft_of(document, NEWEST) if isinstance(document, dict) else NEWEST
        self._resources, self._anchors, self._has_dynamic = {}, {}, False
        outer = Scope("", draft, document, "")
        self.root = Located(document, "", within(document, "", outer))
        self._resources[""] = self.root
        self._index(Located(document, "", outer))

    def resolve(self, reference: str, keyword: str, place: str, scope: Scope) -> Located:
        """The schema that a reference names. Raises SchemaRefused where it leaves the document or names nothing."""
        if self._is_dynamic(reference, keyword):
            raise SchemaRefused(keyword, place, f"names {reference!r} by what refers to it, which differs; use $ref")
        address, fragment = urldefrag(urljoin(scope.base, reference)) if reference[:1] != "#" else ("", reference[1:])
        if reference[:1] == "#":
            home: Located | None = Located(scope.top, scope.place, scope)
        else:
            home = self._resources.get(address)
        if home is None:
            known = "the document's own $id, #, #/pointer and #anchor are allowed; put the schema under $defs"
            raise SchemaRefused(keyword, place, f"names {reference!r}, which is outside the document: {known}")
        fragment = unquote(fragment)
        found = home if not fragment else self._inside(home, fragment)
        if found is None or not isinstance(found.schema, dict | bool):
            raise SchemaRefused(keyword, place, f"names {reference!r}, where the document has no schema")
        return found

    def _is_dynamic(self, reference: str, keyword: str) -> bool:
        """Whether the schema that a reference names depends on the way that leads to it: several have its anchor."""
        if keyword == "$recursiveRef":
            return self._has_dynamic
        name = unquote(reference.partition("#")[2])
        return keyword == "$dynamicRef" and sum(anchor == name for _, anchor in self._anchors) > 1

    def _inside(self, home: Located, fragment: str) -> Located | None:
        if not fragment.startswith("/"):
            return self._anchors.get((home.scope.base, fragment))
        value, place, scope = home.schema, home.place, home.scope
        for escaped in fragment[1:].split("/"):
            step = escaped.replace("~1", "/").replace("~0", "~")
            if isinstance(value, dict) and step in value:
                value = value[step]
            elif isinstance(value, list) and step.isdecimal() and int(step) < len(value):
                value = value[int(step)]
            else:
                return None
            place = pointer(place, step)
            scope = within(value, place, scope)
        return Located(value, place, scope)

    def _index(self, located: Located) -> None:
        waiting = [located]
        while waiting:
            here = waiting.pop()
            value = here.schema
            if not isinstance(value, dict):
                continue
            scope = within(value, here.place, here.scope)
            if scope is not here.scope:
                self._resources.setdefault(scope.base, Located(value, here.place, scope))
            self._name(value, Located(value, here.place, scope))
            for keyword, part in value.items():
                if keyword in _ONE or (keyword in _MANY and isinstance(part, list)):
                    many = enumerate(part) if isinstance(part, list) else None
                    if many is None:
                        waiting.append(Located(part, pointer(here.place, keyword), scope))
                    else:
                        waiting.extend(Located(one, pointer(here.place, keyword, i), scope) for i, one in many)
                elif keyword in _NAMED and isinstance(part, dict):
                    waiting.extend(
                        Located(one, pointer(here.place, keyword, name), scope) for name, one in part.items()
                    )

    def _name(self, value: dict[str, JsonValue], here: Located) -> None:
        base, draft = here.scope.base, here.scope.draft
        if value.get("$recursiveAnchor") is True:
            self._has_dynamic = True
        names = [value.get("$anchor")] if draft >= 2019 else []
        if draft >= 2020:
            names.append(value.get("$dynamicAnchor"))
        identifier = value.get("$id" if draft > 4 else "id")
        if draft <= 7 and isinstance(identifier, str) and identifier.startswith("#"):
            names.append(identifier[1:])
        for name in names:
            if isinstance(name, str):
                self._anchors.setdefault((base, name), here)


def within(value: JsonValue, place: str, scope: Scope) -> Scope:
    """The scope inside ``value``: a new one where it has an address of its own."""
    if not isinstance(value, dict):
        return scope
    draft = draft_of(value, scope.draft)
    identifier = value.get("$id" if draft > 4 else "id")
    if draft <= 7 and "$ref" in value:
        return scope
    if not isinstance(identifier, str) or identifier.startswith("#"):
        return scope
    return Scope(urldefrag(urljoin(scope.base, identifier))[0], draft, value, place)
