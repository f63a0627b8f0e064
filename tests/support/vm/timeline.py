# SPDX-License-Identifier: GPL-2.0-or-later
"""A time line of one fault, as text and as SVG: lanes from top to bottom, seconds to the right.

Knows nothing of where the events come from.
"""

from __future__ import annotations

from typing import NamedTuple

from lxml import etree

WIDTH, LANE, LEFT, TOP = 960, 62, 130, 60
COLOURS = {"bad": "#b3261e", "good": "#1b7f3b", "note": "#37474f"}
SVG = "http://www.w3.org/2000/svg"


class Event(NamedTuple):
    """An instant: seconds after the fault, the lane it belongs to, and its kind (COLOURS)."""

    at: float
    lane: str
    text: str
    kind: str = "note"


class Span(NamedTuple):
    """A state that lasts, drawn as a bar."""

    start: float
    end: float
    lane: str
    text: str
    kind: str = "note"


def text(events: list[Event]) -> str:
    """One line for each event, in order."""
    lines = sorted(events)
    return "\n".join(f"{event.at:+7.2f} s  {event.lane:<10} {event.text}" for event in lines)


def svg(title: str, lanes: list[str], spans: list[Span], events: list[Event]) -> str:
    """The drawing. Times left of the fault are negative."""
    first = min([0.0, *(s.start for s in spans), *(e.at for e in events)])
    last = max([1.0, *(s.end for s in spans), *(e.at for e in events)])
    height = TOP + LANE * len(lanes) + 40

    def x(at: float) -> float:
        return round(LEFT + (at - first) / (last - first) * (WIDTH - LEFT - 30), 1)

    def y(lane: str) -> int:
        return TOP + lanes.index(lane) * LANE

    root = etree.Element(
        "svg", xmlns=SVG, viewBox=f"0 0 {WIDTH} {height}", role="img",
        attrib={"font-family": "sans-serif", "font-size": "12"},
    )  # fmt: skip

    def add(name: str, content: str = "", **attributes: object) -> None:
        values = {key.replace("_", "-"): str(value) for key, value in attributes.items()}
        element = etree.SubElement(root, name, values)
        element.text = content or None

    add("rect", width=WIDTH, height=height, fill="white")
    add("text", title, x=20, y=26, font_size=16, font_weight="bold")
    step = next(s for s in (1, 2, 5, 10, 20, 60) if (last - first) / s <= 14)
    tick = -int(-first // step) * step
    while tick <= last:
        add("line", x1=x(tick), x2=x(tick), y1=TOP - 10, y2=height - 30, stroke="#e0e0e0")
        add("text", f"{tick:g} s", x=x(tick), y=height - 14, text_anchor="middle", fill="#607d8b")
        tick += step
    for lane in lanes:
        add("text", lane, x=LEFT - 12, y=y(lane) + 20, text_anchor="end", font_weight="bold")
    for span in spans:
        wide = max(2.0, round(x(span.end) - x(span.start), 1))
        add("rect", x=x(span.start), y=y(span.lane), width=wide, height=28, rx=4, opacity="0.18",
            fill=COLOURS[span.kind])  # fmt: skip
        add("text", span.text, x=x(span.start) + 6, y=y(span.lane) + 18, fill=COLOURS[span.kind])
    lines = dict.fromkeys(lanes, 0)  # labels of one lane take turns on two lines
    for event in sorted(events):
        lines[event.lane] += 1
        colour = COLOURS[event.kind]
        add("circle", cx=x(event.at), cy=y(event.lane) + 14, r=4, fill=colour)
        right = x(event.at) > WIDTH - 220
        add("text", f"{event.text} ({event.at:.1f} s)", x=x(event.at) + (-7 if right else 7),
            y=y(event.lane) + 51 - 12 * (lines[event.lane] % 2), fill=colour, font_size=10,
            text_anchor="end" if right else "start")  # fmt: skip
    drawing: str = etree.tostring(root, pretty_print=True).decode()
    return drawing
