"""State -> its plans: simple sets without parts become finished schemas, arrays and objects are laid out.

Knows which sets can be written together; knows no references between states.
"""

from __future__ import annotations

from runtime.constraint.schema import numbers, strings
from runtime.constraint.schema.array_plans import array_plans
from runtime.constraint.schema.arrays import Arrays
from runtime.constraint.schema.context import Context
from runtime.constraint.schema.cover import Booleans, Null, Simple
from runtime.constraint.schema.document import JsonValue
from runtime.constraint.schema.lost import Lost
from runtime.constraint.schema.numbers import Numbers
from runtime.constraint.schema.object_plans import object_plans
from runtime.constraint.schema.objects import Objects
from runtime.constraint.schema.plan import Finished, Plan
from runtime.constraint.schema.state import State
from runtime.constraint.schema.strings import Strings


def plans_of(context: Context, state: State) -> list[Plan]:
    """Every way to write a value of a state. Raises SchemaRefused."""
    place = context.place(state)
    whole: list[JsonValue] = []
    values: list[JsonValue] = []
    plans: list[Plan] = []
    full = context.full()
    for kind, sets in context.cover(state).items():
        for one in _writable(sets):
            if one == full[kind][0]:
                whole.append(kind)
            elif isinstance(one, Objects):
                plans += object_plans(context, one, place)
            elif isinstance(one, Arrays):
                plans += array_plans(context, one, place)
            else:
                schema = _finished(context, one, place)
                listed = [schema["const"]] if "const" in schema else schema.get("enum")
                values += listed if isinstance(listed, list) else []
                plans += [] if isinstance(listed, list) else [Finished(schema)]
    if len(whole) == len(full):
        return [Finished(True)]
    if values:
        plans.insert(0, Finished({"enum": values}))
    if whole:
        plans.insert(0, Finished({"type": whole if len(whole) > 1 else whole[0]}))
    return list(dict.fromkeys(plans)) if not any(isinstance(plan, Finished) for plan in plans) else plans


def _writable(sets: tuple[Simple, ...]) -> list[Simple]:
    """The sets that can be written. Raises SchemaRefused where a whole branch, or the whole kind, cannot."""
    for one in sets:
        if one.lost and one.lost.vital:
            raise one.lost.refusal()
    kept = [one for one in sets if one.lost is None]
    lost = next((one.lost for one in sets if one.lost and not one.lost.spare), None)
    if not kept and lost:
        raise lost.refusal()
    return kept


def _finished(context: Context, one: Simple, place: str) -> dict[str, JsonValue]:
    schema: dict[str, JsonValue] | Lost | None = None
    if isinstance(one, Null):
        return {"const": None}
    if isinstance(one, Booleans):
        return {"enum": [*sorted(one.values)]}
    if isinstance(one, Strings):
        schema = strings.schema_of(context.languages, one, place)
    elif isinstance(one, Numbers):
        schema = numbers.schema_of(one, place)
    if isinstance(schema, dict):
        return schema
    raise schema.refusal() if schema is not None else ValueError(f"no finished schema for {type(one).__name__}")
