"""States and their plans -> one schema: what can be finished is kept, what is used twice is defined once.

The schema uses ``type``, ``enum``, bounds, ``pattern``, ``anyOf`` of single kinds and ``$ref`` to ``$defs``, which
llguidance reads exactly. Knows no meaning of keywords beyond that.
"""

from __future__ import annotations

from runtime.constraint.schema.context import Context
from runtime.constraint.schema.contradictions import check_strings
from runtime.constraint.schema.document import JsonValue
from runtime.constraint.schema.plan import ArrayPlan, Finished, ObjectPlan, Plan
from runtime.constraint.schema.planning import plans_of
from runtime.constraint.schema.state import NOTHING, State
from runtime.errors import SchemaRefused

MAX_STATES = 10_000
MAX_INLINE = 12
"""Levels that are written inside each other before a definition is made."""


def written(context: Context, root: State) -> JsonValue:
    """The schema of a state. Raises SchemaRefused where nothing is valid, or too many states are needed."""
    plans = _all_plans(context, root)
    _drop_endless(plans)
    if not plans[root]:
        check_strings(context)
        raise SchemaRefused("schema", context.place(root), "admits no value at all: its demands contradict each other")
    return _Writer(plans).document(root)


def _all_plans(context: Context, root: State) -> dict[State, list[Plan]]:
    plans: dict[State, list[Plan]] = {}
    waiting = [root]
    while waiting:
        state = waiting.pop()
        if state in plans:
            continue
        plans[state] = [] if state == NOTHING else plans_of(context, state)
        waiting.extend(part for plan in plans[state] for part in _parts(plan))
        if len(plans) > MAX_STATES:
            problem = f"unfolds into over {MAX_STATES:,} different schemas; combine fewer of them"
            raise SchemaRefused("schema", "", problem)
    return plans


def _parts(plan: Plan) -> list[State]:
    if isinstance(plan, ObjectPlan):
        rest = [] if plan.rest is None else [plan.rest]
        return [*(field.state for field in plan.fields), *(state for _, state in plan.patterns), *rest]
    if isinstance(plan, ArrayPlan):
        return [*plan.prefix, *([] if plan.rest is None else [plan.rest])]
    return []


def _drop_endless(plans: dict[State, list[Plan]]) -> None:
    """Drops every plan that has to hold a value that no finite text can be: found as the least fixed point."""
    users: dict[State, set[State]] = {}
    for state, options in plans.items():
        for plan in options:
            for part in _parts(plan):
                users.setdefault(part, set()).add(state)
    ends: set[State] = set()
    waiting = list(plans)
    while waiting:
        state = waiting.pop()
        if state not in ends and any(_can_end(plan, ends) for plan in plans[state]):
            ends.add(state)
            waiting.extend(users.get(state, ()))
    for state, options in plans.items():
        plans[state] = [plan for plan in options if _can_end(plan, ends)]


def _can_end(plan: Plan, ends: set[State]) -> bool:
    if isinstance(plan, ObjectPlan):
        further = [*(state for _, state in plan.patterns), *([] if plan.rest is None else [plan.rest])]
        named = all(field.state in ends for field in plan.fields if field.required)
        return named and (plan.least == 0 or any(state in ends for state in further))
    if isinstance(plan, ArrayPlan):
        positions = range(min(plan.least, len(plan.prefix)))
        reaches = plan.least <= len(plan.prefix) or (plan.rest is not None and plan.rest in ends)
        return reaches and all(plan.prefix[i] in ends for i in positions)
    return True


class _Writer:
    def __init__(self, plans: dict[State, list[Plan]]) -> None:
        self.plans = plans
        self.uses: dict[State, int] = {}
        self.definitions: dict[State, str] = {}
        self.waiting: list[State] = []

    def document(self, root: State) -> JsonValue:
        for options in self.plans.values():
            for plan in options:
                for part in _parts(plan):
                    self.uses[part] = self.uses.get(part, 0) + 1
        self.uses[root] = self.uses.get(root, 0)
        schema = self._reference(root) if self.uses[root] else self._schema(root, 0)
        schema = {} if schema is True else schema
        definitions: dict[str, JsonValue] = {}
        while self.waiting:
            state = self.waiting.pop()
            definitions[self.definitions[state]] = self._schema(state, 0)
        if definitions and isinstance(schema, dict):
            schema["$defs"] = definitions
        return schema

    def _schema(self, state: State, level: int) -> JsonValue:
        options = [self._plan(plan, level) for plan in self.plans[state]]
        if not options:
            return False
        return options[0] if len(options) == 1 else {"anyOf": options}

    def _part(self, state: State, level: int) -> JsonValue:
        plans = self.plans[state]
        small = all(isinstance(plan, Finished) for plan in plans) and len(str(plans)) < 200
        if small or not plans or (self.uses[state] == 1 and level < MAX_INLINE):
            return self._schema(state, level + 1)
        return self._reference(state)

    def _reference(self, state: State) -> dict[str, JsonValue]:
        if state not in self.definitions:
            self.definitions[state] = str(len(self.definitions))
            self.waiting.append(state)
        return {"$ref": f"#/$defs/{self.definitions[state]}"}

    def _plan(self, plan: Plan, level: int) -> JsonValue:
        if isinstance(plan, ObjectPlan):
            return self._object(plan, level)
        if isinstance(plan, ArrayPlan):
            return self._array(plan, level)
        return plan.schema

    def _object(self, plan: ObjectPlan, level: int) -> JsonValue:
        schema: dict[str, JsonValue] = {"type": "object"}
        properties: dict[str, JsonValue] = {field.name: self._part(field.state, level) for field in plan.fields}
        properties.update(dict.fromkeys(plan.absent, False))
        if properties:
            schema["properties"] = properties
        if plan.patterns:
            schema["patternProperties"] = {pattern: self._part(state, level) for pattern, state in plan.patterns}
        schema["additionalProperties"] = False if plan.rest is None else self._part(plan.rest, level)
        required: list[JsonValue] = [field.name for field in plan.fields if field.required]
        if required:
            schema["required"] = required
        if plan.least:
            schema["minProperties"] = len(required) + plan.least
        if plan.most is not None:
            schema["maxProperties"] = len(required) + plan.most
        return schema

    def _array(self, plan: ArrayPlan, level: int) -> JsonValue:
        schema: dict[str, JsonValue] = {"type": "array"}
        if plan.prefix:
            schema["prefixItems"] = [self._part(state, level) for state in plan.prefix]
        schema["items"] = False if plan.rest is None else self._part(plan.rest, level)
        if plan.least:
            schema["minItems"] = plan.least
        if plan.most is not None:
            schema["maxItems"] = plan.most
        return schema
