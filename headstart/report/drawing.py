"""Small pictures as inline SVG: no plotting library, no script, nothing loaded from elsewhere.

Horizontal places are percentages and vertical ones pixels, so a picture fills any width, from a phone to a printed
page, while its words keep their size. Ink is `currentColor` and the accent is `--accent`: light and dark come from
the page around it. Every function takes plain numbers and words and returns markup in which the words are escaped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

Point = tuple[float, float]

STYLE = """
.headstart-plot { display: block; width: 100%; overflow: visible; fill: currentColor; font-size: 13px; }
.headstart-plot text { font-variant-numeric: tabular-nums; }
.headstart-plot .small { font-size: 11.5px; fill-opacity: .75; }
.headstart-plot .main { font-weight: 650; }
.headstart-plot .end { text-anchor: end; }
.headstart-plot .middle { text-anchor: middle; }
.headstart-plot .grid { stroke: currentColor; stroke-opacity: .14; }
.headstart-plot .zero { stroke: currentColor; stroke-opacity: .7; stroke-width: 1.5; }
.headstart-plot .interval { stroke: currentColor; stroke-opacity: .62; stroke-width: 2.5; stroke-linecap: round; }
.headstart-plot .main.interval { stroke: var(--accent, #2f7ec7); stroke-opacity: 1; stroke-width: 4; }
.headstart-plot circle.main { fill: var(--accent, #2f7ec7); }
.headstart-plot circle.dot { fill: var(--accent, #2f7ec7); fill-opacity: .35; }
.headstart-plot circle.ring { fill: none; stroke: var(--accent, #2f7ec7); stroke-width: 1.5; }
.headstart-plot circle.open { fill: var(--paper, #fff); stroke: currentColor; stroke-opacity: .7; stroke-width: 1.5; }
.headstart-plot .band { fill: var(--accent, #2f7ec7); fill-opacity: .13; }
.headstart-plot path { fill: none; stroke: currentColor; stroke-opacity: .28; stroke-width: 1; }
.headstart-plot path.main { stroke: var(--accent, #2f7ec7); stroke-opacity: 1; stroke-width: 2; }
.headstart-plot.lines { margin: 1rem 0 0 3rem; width: calc(100% - 3rem); }
"""

ROW_HEIGHT = 46  # of the dot plot: a line of words, and the strip below it
LINES_HEIGHT = 150
SCATTER_HEIGHT = 240
LEAST_RATIO = 1.05  # of the largest cost to the smallest
N_POINTS_SHOWN = 400
INSET = 1.5  # percent kept free at both ends, so that a dot at the end of the scale is whole


@dataclass(frozen=True)
class Scale:
    """From numbers to percent of the picture's width (or, reversed, pixels of its height)."""

    low: float
    high: float
    step: float

    @classmethod
    def around(cls, values: Sequence[float], n_steps: int = 5) -> Scale:
        """The scale with ends and steps at round numbers (1, 2 or 5 times a power of ten) that holds all `values`."""
        low, high = min(values), max(values)
        rough = (high - low or abs(high) or 1.0) / n_steps
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(power * k for k in (1, 2, 5, 10) if power * k >= rough * 0.999)
        low_end, high_end = math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step
        return cls(low_end, high_end if high_end > low_end else low_end + step, step)

    @property
    def ticks(self) -> list[float]:
        n = round((self.high - self.low) / self.step)
        return [round(self.low + k * self.step, 12) for k in range(n + 1)]

    def at(self, value: float) -> float:
        """Percent of the width."""
        return INSET + (100 - 2 * INSET) * (value - self.low) / (self.high - self.low)

    def down(self, value: float, height: float) -> float:
        """Pixels from the top, for a vertical axis of `height`."""
        return height * (self.high - value) / (self.high - self.low)


@dataclass(frozen=True)
class Dot:
    """One row of a dot plot: a value with its interval, in numbers and in words."""

    name: str
    value: float
    interval: tuple[float, float]
    words: str
    is_main: bool = False


def tag(name: str, content: str = "", **attributes: object) -> str:
    """One element. `content` is markup already; attribute values are escaped here, `class_` is class."""
    pairs = "".join(f' {key.rstrip("_").replace("_", "-")}="{escape(_short(value))}"'
                    for key, value in attributes.items())
    return f"<{name}{pairs}>{content}</{name}>"


def _short(value: object) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


def _line(class_: str, x1: float, y1: float, x2: float, y2: float) -> str:
    return tag("line", class_=class_, x1=f"{x1:.2f}%", y1=y1, x2=f"{x2:.2f}%", y2=y2)


def _text(words: str, x: float, y: float, class_: str) -> str:
    return tag("text", escape(words), x=f"{x:.2f}%", y=y, class_=class_)


def _picture(content: list[str], title: str, words: str, height: float, kind: str) -> str:
    """title and desc are what a screen reader says in place of the picture."""
    inside = tag("title", escape(title)) + tag("desc", escape(words)) + "".join(content)
    return tag("svg", inside, class_=f"headstart-plot {kind}", role="img", height=height)


def dot_plot(title: str, dots: Sequence[Dot], show: Callable[[float], str], zero: bool = False) -> str:
    """Values with their intervals on one axis, a row each; words stand above the strip so that a phone has room.

    show: an axis number in words. zero: the axis holds 0 and a line marks it.
    Returns "" when no dot has a finite place.
    """
    dots = [dot for dot in dots if all(map(math.isfinite, (dot.value, *dot.interval)))]
    if not dots:
        return ""
    ends = [end for dot in dots for end in (*dot.interval, dot.value)]
    scale = Scale.around([*ends, 0.0] if zero else ends)
    bottom = len(dots) * ROW_HEIGHT
    parts = []
    for k, dot in enumerate(dots):
        parts += _dot_row(dot, k * ROW_HEIGHT, scale, [d for d in dots if d.is_main and not zero], zero)
    parts += [_text(show(tick), scale.at(tick), bottom + 14, "small middle") for tick in scale.ticks]
    words = "; ".join(f"{dot.name}: {dot.words}" for dot in dots)
    return _picture(parts, title, words, bottom + 18, "dots")


def _dot_row(dot: Dot, top: int, scale: Scale, bands: Sequence[Dot], zero: bool) -> list[str]:
    middle = top + 30
    look = "main" if dot.is_main else "other"
    weight = look if bands else "other"
    parts = [_text(dot.name, 0, top + 15, weight), _text(dot.words, 100, top + 15, f"{weight} end"),
             _line("grid", scale.at(scale.low), middle, scale.at(scale.high), middle)]
    parts += [_line("grid", scale.at(tick), middle - 6, scale.at(tick), middle + 6) for tick in scale.ticks]
    for band in bands:  # the main interval is repeated in every row: the eye compares without a ruler
        left, right = (scale.at(end) for end in band.interval)
        parts.append(tag("rect", class_="band", x=f"{left:.2f}%", width=f"{right - left:.2f}%", y=middle - 9,
                         height=18))
    if zero:
        parts.append(_line("zero", scale.at(0), middle - 9, scale.at(0), middle + 9))
    low, high = dot.interval
    return [*parts, _line(f"{look} interval", scale.at(low), middle, scale.at(high), middle),
            tag("circle", class_=look, cx=f"{scale.at(dot.value):.2f}%", cy=middle, r=6 if dot.is_main else 4.5)]


def line_plot(title: str, words: str, points: Sequence[Point], show: Callable[[float], str], *, x: Scale,
              faint: Sequence[Point] = (), best: int | None = None, label: str = "") -> str:
    """One line over steps. `faint` lies behind it; with `best` every point is a dot and that one carries `label`."""
    scale = Scale.around([value for _, value in [*points, *faint]], n_steps=3)
    parts = []
    for tick in scale.ticks:
        y = scale.down(tick, LINES_HEIGHT)
        parts += [_line("grid", 0, y, 100, y), tag("text", escape(show(tick)), x=-8, y=y + 4, class_="small end")]
    paths = "".join(tag("path", class_=look, d=_path(line, x, scale), vector_effect="non-scaling-stroke")
                    for look, line in (("faint", faint), ("main", points)) if len(line) > 1)
    # The paths live in a stretched box of 100 by LINES_HEIGHT; a path, unlike a line, cannot be given in percent.
    parts.append(tag("svg", paths, viewBox=f"0 0 100 {LINES_HEIGHT}", preserveAspectRatio="none", x=0, y=0,
                     width="100%", height=LINES_HEIGHT, overflow="visible"))
    if best is not None:
        parts += [tag("circle", class_="main", cx=f"{x.at(at):.2f}%", cy=scale.down(value, LINES_HEIGHT), r=3.5)
                  for at, value in points]
        at, value = points[best]
        y = scale.down(value, LINES_HEIGHT)
        side = "end" if x.at(at) > 70 else "middle" if x.at(at) > 30 else "start"
        parts += [tag("circle", class_="ring", cx=f"{x.at(at):.2f}%", cy=y, r=7.0),
                  _text(label, x.at(at), y - 13, f"main {side}")]
    parts += [_text(f"{tick:,g}", x.at(tick), LINES_HEIGHT + 17, "small middle") for tick in x.ticks]
    return _picture(parts, title, words, LINES_HEIGHT + 22, "lines")


@dataclass(frozen=True)
class Mark:
    """One point of a scatter plot: what it costs, what it is worth with its interval, and whether nothing beats it."""

    name: str
    cost: float
    value: float
    interval: tuple[float, float]
    on_front: bool


def scatter_plot(title: str, marks: Sequence[Mark], show_cost: Callable[[float], str],
                 show: Callable[[float], str]) -> str:
    """Worth against cost on a logarithmic axis; intervals stand upright, points are numbered from the best down.

    Returns "" where all cost about the same: there is nothing to choose by.
    """
    marks = sorted((m for m in marks if m.cost > 0 and all(map(math.isfinite, (m.value, *m.interval)))),
                   key=lambda m: m.cost)
    if not marks or marks[-1].cost < LEAST_RATIO * marks[0].cost:
        return ""
    low, high = math.log10(marks[0].cost), math.log10(marks[-1].cost)
    room = max(0.15, (high - low) * 0.12)
    x = Scale(low - room, high + room, 1.0)
    y = Scale.around([end for m in marks for end in m.interval], n_steps=4)
    parts = []
    for tick in y.ticks:
        at = y.down(tick, SCATTER_HEIGHT)
        parts += [_line("grid", 0, at, 100, at), tag("text", escape(show(tick)), x=-8, y=at + 4, class_="small end")]
    ranked = sorted(marks, key=lambda m: (-m.value, m.name))
    for m in marks:
        left, top = x.at(math.log10(m.cost)), y.down(m.value, SCATTER_HEIGHT)
        look = "main" if m.on_front else "other"
        low_end, high_end = (y.down(end, SCATTER_HEIGHT) for end in m.interval)
        parts += [_line(f"{look} interval", left, low_end, left, high_end),
                  tag("circle", class_="main" if m.on_front else "open", cx=f"{left:.2f}%", cy=top, r=5.5),
                  _text(str(ranked.index(m) + 1), left, high_end - 6, f"{look} small middle")]
    for k, m in enumerate(ranked):  # names stand below: beside the points they would cover each other
        parts.append(_text(f"{k + 1}  {m.name}", 50.0 * (k % 2), SCATTER_HEIGHT + 40 + 17 * (k // 2),
                           "main small" if m.on_front else "small"))
    parts += [_text(show_cost(cost), x.at(math.log10(cost)), SCATTER_HEIGHT + 17, "small middle")
              for cost in (marks[0].cost, marks[-1].cost)]
    words = "; ".join(f"{m.name}: {show(m.value)} at {show_cost(m.cost)}" for m in marks)
    return _picture(parts, title, words, SCATTER_HEIGHT + 30 + 17 * ((len(marks) + 1) // 2), "lines")


def cloud(title: str, words: str, points: Sequence[Point], show: Callable[[float], str]) -> str:
    """Predicted against gold, both on the same scale; on the line they are equal."""
    both = Scale.around([value for point in points for value in point])
    parts = []
    for tick in both.ticks:
        at = both.down(tick, SCATTER_HEIGHT)
        parts += [_line("grid", 0, at, 100, at), tag("text", escape(show(tick)), x=-8, y=at + 4, class_="small end"),
                  _text(show(tick), both.at(tick), SCATTER_HEIGHT + 17, "small middle")]
    parts.append(_line("zero", both.at(both.low), SCATTER_HEIGHT, both.at(both.high), 0))
    parts += [tag("circle", class_="dot", cx=f"{both.at(gold):.2f}%", cy=both.down(said, SCATTER_HEIGHT), r=3)
              for gold, said in points]
    return _picture(parts, title, words, SCATTER_HEIGHT + 30, "lines")


def _path(points: Sequence[Point], x: Scale, y: Scale) -> str:
    return "M" + " ".join(f"{x.at(at):.2f},{y.down(value, LINES_HEIGHT):.1f}" for at, value in points)


def thinned(points: Sequence[Point], limit: int = N_POINTS_SHOWN) -> list[Point]:
    """At most about `limit` points: the lowest and the highest of every stretch, so that no spike is lost."""
    if len(points) <= limit:
        return list(points)
    size = math.ceil(2 * len(points) / limit)
    stretches = (points[start : start + size] for start in range(0, len(points), size))
    ends = ((min(s, key=lambda p: p[1]), max(s, key=lambda p: p[1])) for s in stretches)
    return [point for pair in ends for point in sorted(set(pair))]


def smoothed(points: Sequence[Point]) -> list[Point]:
    """A running mean that forgets over about a thirtieth of the points; its start is not drawn towards zero."""
    keep = 1 - 1 / max(2.0, len(points) / 30)
    mean, weight, out = 0.0, 0.0, []
    for at, value in points:
        mean, weight = keep * mean + (1 - keep) * value, keep * weight + (1 - keep)
        out.append((at, mean / weight))
    return out
