"""docs/rooms.svg, drawn from the table of allowed imports. Knows the table, and no import statement."""

from __future__ import annotations

from dataclasses import dataclass

from tests.test_architecture import EDGES, ROOMS

_LINE, _BOX, _GAP, _PAD, _LETTER = 58, 26, 14, 16, 7.0
_STYLE = (
    "text{font:12px ui-sans-serif,system-ui,sans-serif;fill:#1b2733;text-anchor:middle}"
    ".name{font-weight:700;font-size:14px}.room{fill:#f4f7fa;stroke:#b8c4d0}.folder{fill:#fff;stroke:#5b7083}"
    ".own{stroke-dasharray:3 2}.in{stroke:#9aaaba;fill:none}.out{stroke:#00695c;stroke-width:2.5;fill:none}"
)
_TIP = (
    '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="6" markerHeight="6" orient="auto">'
    '<path d="M0 0L8 4L0 8z" fill="#5b7083"/></marker></defs>'
)


@dataclass(frozen=True, slots=True)
class Panel:
    """One room: its folders' middles by name, within the panel, and the panel's size. All in pixels."""

    room: str
    places: dict[str, tuple[float, float]]
    width: float
    height: float


def picture() -> str:
    """The whole drawing, SVG: rooms above what they import; in each, folders above the folders that they import."""
    panels = {room: _panel(room) for room in ROOMS}
    graph = {room: set(_of_rooms(room)) for room in ROOMS}
    levels = _levels(graph)
    rows = [[panels[room] for room in ROOMS if levels[room] == level] for level in range(max(levels.values()), -1, -1)]
    width = max(sum(panel.width + _PAD for panel in row) for row in rows) + _PAD
    y, drawn, corners = float(_PAD), list[str](), dict[str, tuple[float, float]]()
    for row in rows:
        x = (width - sum(panel.width + _PAD for panel in row) + _PAD) / 2
        for panel in row:
            corners[panel.room] = x, y
            drawn += _drawn(panel, x, y)
            x += panel.width + _PAD
        y += max(panel.height for panel in row) + 3 * _PAD
    arrows = [_between(panels, corners, room, other) for room, other in _needed(graph)]
    height = y - 2 * _PAD
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" role="img">',
        "<title>Which folder imports which: arrows lead from what imports to what is imported</title>",
        f"<style>{_STYLE}</style>",
        _TIP,
        f'<rect width="{width:.0f}" height="{height:.0f}" rx="10" fill="#fff"/>',
        *drawn,
        *arrows,
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def _of_rooms(room: str) -> list[str]:
    """The other rooms that anything in a room imports."""
    targets = {there for here, all_there in EDGES.items() if _is_in(here, room) for there in all_there.split()}
    return [other for other in ROOMS if other != room and any(_is_in(there, other) for there in targets)]


def _is_in(folder: str, room: str) -> bool:
    return folder.partition(".")[0] == room


def _levels(graph: dict[str, set[str]]) -> dict[str, int]:
    """How far each node is above the nodes that import nothing, by the longest way."""
    levels: dict[str, int] = {}
    while len(levels) < len(graph):
        for name, targets in graph.items():
            if name not in levels and targets <= levels.keys():
                levels[name] = 1 + max((levels[target] for target in targets), default=-1)
    return levels


def _within(room: str) -> dict[str, set[str]]:
    return {
        here: {there for there in all_there.split() if _is_in(there, room)}
        for here, all_there in EDGES.items()
        if _is_in(here, room)
    }


def _needed(graph: dict[str, set[str]]) -> list[tuple[str, str]]:
    """The edges without those that a longer way says already."""
    reach: dict[str, set[str]] = {}
    for name in sorted(graph, key=_levels(graph).__getitem__):
        reach[name] = graph[name].union(*(reach[target] for target in graph[name]))
    return [
        (here, there)
        for here, targets in graph.items()
        for there in sorted(targets)
        if not any(there in reach[other] for other in targets - {there})
    ]


def _label(folder: str, room: str) -> str:
    return f"{room}/*.py" if folder == room else folder.removeprefix(room + ".").replace(".", "/")


def _panel(room: str) -> Panel:
    levels = _levels(_within(room))
    top = max(levels.values())
    rows = [[name for name in sorted(levels) if levels[name] == level] for level in range(top, -1, -1)]
    widths = [sum(_width(name, room) + _GAP for name in row) - _GAP for row in rows]
    width = max([*widths, 120]) + 2 * _PAD
    places = {}
    for at, row in enumerate(rows):
        x = (width - widths[at]) / 2
        for name in row:
            places[name] = x + _width(name, room) / 2, 44 + _LINE * at + _BOX / 2
            x += _width(name, room) + _GAP
    return Panel(room, places, width, 44 + _LINE * top + _BOX + _PAD)


def _width(folder: str, room: str) -> float:
    return len(_label(folder, room)) * _LETTER + 16


def _drawn(panel: Panel, left: float, top: float) -> list[str]:
    size = f'width="{panel.width:.0f}" height="{panel.height:.0f}"'
    lines = [
        f'<rect class="room" x="{left:.0f}" y="{top:.0f}" {size} rx="8"/>',
        f'<text class="name" x="{left + panel.width / 2:.0f}" y="{top + 24:.0f}">{panel.room}/</text>',
    ]
    for here, there in _needed(_within(panel.room)):
        (x1, y1), (x2, y2) = panel.places[here], panel.places[there]
        lines.append(_line("in", left + x1, top + y1 + _BOX / 2, left + x2, top + y2 - _BOX / 2))
    for name, (x, y) in panel.places.items():
        width, kind = _width(name, panel.room), "folder own" if name == panel.room else "folder"
        corner = f'x="{left + x - width / 2:.0f}" y="{top + y - _BOX / 2:.0f}"'
        lines.append(f'<rect class="{kind}" {corner} width="{width:.0f}" height="{_BOX}" rx="4"/>')
        lines.append(f'<text x="{left + x:.0f}" y="{top + y + 4:.0f}">{_label(name, panel.room)}</text>')
    return lines


def _between(panels: dict[str, Panel], corners: dict[str, tuple[float, float]], room: str, other: str) -> str:
    (x1, y1), (x2, y2) = corners[room], corners[other]
    middle = x1 + panels[room].width / 2
    end = min(max(middle, x2 + 20), x2 + panels[other].width - 20)
    return _line("out", middle, y1 + panels[room].height, end, y2)


def _line(kind: str, x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<path class="{kind}" marker-end="url(#tip)" d="M{x1:.0f} {y1:.0f}L{x2:.0f} {y2:.0f}"/>'
