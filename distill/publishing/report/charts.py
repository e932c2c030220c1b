"""What a run's report is made of: its stylesheet, charts and image grids, none of which needs anything outside the page.

Charts are drawn on `Figure` objects, never through pyplot, so that writing a report leaves no global state behind in a training process.
Each chart is an image of its own (SVG in a data URI): the page arranges them for the width it has.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator
from PIL import Image

BLUE, ORANGE, INK, GREY, PALE = "#2a6fbb", "#c8551b", "#333a44", "#7a828e", "#e6e9ee"
STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.edgecolor": "#b9c0ca",
    "axes.labelcolor": GREY,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": PALE,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "ytick.major.size": 0,
    "path.simplify_threshold": 0.5,  # a long run has more points than the panel has pixels
    "svg.fonttype": "none",  # text stays text: half the bytes of outlines, and it can be selected
    "svg.hashsalt": "distill",  # the same run gives the same bytes
}
# Text is laid out with matplotlib's own font, which is wide; these are what readers have, and they fit in its place.
FONTS = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', 'Liberation Sans', Arial, sans-serif"
PIXELATED_UP_TO = 512  # px; a wider grid holds photographs, which nearest-neighbour scaling would spoil
STYLESHEET = """
html { color-scheme: light dark; -webkit-text-size-adjust: 100% } * { box-sizing: border-box }
:root { --ink: #1d232b; --soft: #5c6673; --line: #dfe3e8; --page: #fbfbfa; --tint: #f1f3f6; --mark: #2a6fbb; --warn: #b7791f }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e9ed; --soft: #9aa4b1; --line: #2f363f; --page: #14181d; --tint: #1e242b; --mark: #7db3ec; --warn: #e0b054 } }
body { margin: 0; background: var(--page); color: var(--ink); font: 16px/1.6 system-ui, "Segoe UI", Roboto, "Liberation Sans", sans-serif }
main { max-width: 1180px; margin: 0 auto; padding: 3rem 1.25rem 4rem } section { margin-top: 3.25rem }
h1 { margin: 0 0 .75rem; font-size: 2.1rem; line-height: 1.2; letter-spacing: -.02em; overflow-wrap: anywhere }
h2 { margin: 0 0 1rem; padding-bottom: .4rem; border-bottom: 1px solid var(--line); font-size: 1.2rem; letter-spacing: -.01em }
.lead { max-width: 48em; margin: 0; font-size: 1.08rem } .note { max-width: 56em; margin: -.25rem 0 1rem; color: var(--soft); font-size: .92rem }
.missing { margin: 1rem 0 0; padding: .55rem .9rem; border-left: 3px solid var(--warn); background: var(--tint); font-size: .92rem }
code, pre { font: .88em/1.55 ui-monospace, "SF Mono", Menlo, Consolas, "Liberation Mono", monospace } code { overflow-wrap: anywhere }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: .9rem; margin: 1.75rem 0 0; padding: 0; list-style: none }
.tiles li, .card, pre { border: 1px solid var(--line); border-radius: 10px }
.tiles li { padding: .8rem 1rem .75rem; color: var(--soft); font-size: .86rem; line-height: 1.35 }
.tiles b { display: block; margin-bottom: .2rem; color: var(--ink); font-size: 1.65rem; font-weight: 600; letter-spacing: -.02em; line-height: 1.2 }
dl { margin: 0 } dd { margin: 0; color: var(--soft); overflow-wrap: anywhere } dt { font-weight: 600 } dt span { font-weight: 400 }
.glossary { columns: 2 24rem; column-gap: 2.5rem; font-size: .94rem } .glossary div { break-inside: avoid; margin-bottom: .9rem }
.facts { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1.5rem; margin-top: 1.25rem; font-size: .92rem }
.row { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 17.5rem), 1fr)); gap: 1.25rem }
.row.small { grid-template-columns: repeat(auto-fill, minmax(min(100%, 15.5rem), 1fr)) } .wide { max-width: 820px }
figure { margin: 0; break-inside: avoid; min-width: 0 } .wide + .wide { margin-top: 1.5rem } table + .note { margin-top: .8rem }
figcaption { color: var(--soft); font-size: .9rem } figcaption b { color: var(--ink); font-weight: 600 }
.card { margin-top: .35rem; padding: .6rem .5rem .35rem; overflow-x: auto; background: #fff }
.card img { display: block; width: 100% } .wide .card img { min-width: 30rem } .pixelated { image-rendering: pixelated }
.grid { display: block; width: 100%; height: auto; margin-bottom: .4rem; border-radius: 4px; background: #fff }
table { width: 100%; max-width: 820px; border-collapse: collapse; font-size: .95rem }
th, td { padding: .4rem 0; border-bottom: 1px solid var(--line); text-align: left; font-weight: 400; vertical-align: baseline }
td, thead th { padding-left: 1rem; text-align: right; font-variant-numeric: tabular-nums } td b { color: var(--mark); font-weight: 600 }
thead th, .group th { font-weight: 600 } .group th { padding-top: 1.3rem } th span, dt span { color: var(--soft); font-size: .86em }
summary { cursor: pointer } pre { max-height: 40rem; overflow: auto; padding: 1rem; background: var(--tint) }
@media (max-width: 600px) {
  main { padding-top: 1.5rem } h1 { font-size: 1.6rem } th span { display: block }
  .facts { grid-template-columns: 1fr } .facts dd { margin-bottom: .5rem } }
@media print {
  :root { color-scheme: light; --ink: #000; --soft: #444; --line: #ccc; --page: #fff; --tint: #f6f6f6; --mark: #1d4f8a }
  body { font-size: 10.5pt } main { max-width: none; padding: 0 } h2 { break-after: avoid } pre { max-height: none; white-space: pre-wrap }
  .row, .row.small { grid-template-columns: repeat(3, 1fr) } details::details-content { content-visibility: visible; block-size: auto } }
"""


def short(value: float, digits: int = 3) -> str:
    """A number as it reads in text and on axes: 1 234 567, 0.0412, 3e-5."""
    if abs(value) >= 10 ** (digits - 1) and math.isfinite(value):
        return f"{value:,.0f}".replace(
            ",", "\u202f"
        )  # narrow no-break space: a comma is a decimal sign to half the readers
    return f"{value + 0.0:.{digits}g}".replace("e-0", "e-")  # + 0.0 takes the sign off a zero


def short_count(value: float, _: object = None) -> str:
    """A step or image count on an axis: 500, 20k, 1.5M."""
    return (
        f"{value / 1e6:g}M"
        if abs(value) >= 1e6
        else f"{value / 1e3:g}k"
        if abs(value) >= 1e3
        else f"{value:g}"
    )


def duration(seconds: float) -> str:
    """A time in words: 42 s, 38 min, 5 h 07 min."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"


def data_uri(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def svg_uri(figure: Figure) -> str:
    """A figure as an SVG in a data URI."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None}, transparent=True)
    families = ", ".join(repr(name) for name in matplotlib.rcParams["font.sans-serif"])
    text = buffer.getvalue().replace(f"{families}, sans-serif", FONTS).replace(families, FONTS)
    return data_uri(text.encode(), "image/svg+xml")


def caption(text: str) -> str:
    """Plain text as a caption, its part before the first '|' in bold."""
    head, _, tail = text.partition("|")
    return f"<figcaption><b>{escape(head)}</b> {escape(tail)}</figcaption>"


def card(figure: Figure, alt: str, text: str, kind: str = "") -> str:
    """A chart on a white card, so that it stays legible on a dark page."""
    return f'<figure class="{kind}">{caption(text)}<div class="card"><img src="{svg_uri(figure)}" alt="{escape(alt)}"></div></figure>'


def image(path: Path, text: str) -> str | None:
    """A PNG of the run inlined as it is; None where it is absent or cannot be read as an image."""
    try:
        with Image.open(path) as opened:
            opened.verify()
            width, height = opened.size
    except (OSError, SyntaxError):  # PIL reports broken PNG chunks as SyntaxError
        return None
    kind = "grid pixelated" if width <= PIXELATED_UP_TO else "grid"
    size = f'width="{width}" height="{height}" alt="{escape(text.replace("|", ", "))}"'
    return f'<figure><img class="{kind}" src="{data_uri(path.read_bytes(), "image/png")}" {size}>{caption(text)}</figure>'


def running_mean(values: np.ndarray) -> np.ndarray:
    """Centred mean over about a fifteenth of the run, over what there is at the ends: no lag, unlike an exponential mean."""
    window = np.ones(max(1, len(values) // 30) * 2 + 1)
    return np.convolve(values, window, "same") / np.convolve(np.ones_like(values), window, "same")


def set_axes(axes: Axes, values: np.ndarray, log_from: float = 10) -> None:
    """Plain numbers on both axes; a vertical range that a few spikes do not decide, logarithmic where it spans a factor of `log_from`."""
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(short_count))
    low, high = np.quantile(values, (0.005, 0.995))
    if values.min() > 0 and high > log_from * low:
        axes.set_yscale("log")
        axes.set_ylim(low / 1.25, high * 1.25)
        # With one or two decades in view, 2 and 5 are labelled too: a curve between two far ticks cannot be read.
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0,) if high > 1e3 * low else (1.0, 2.0, 5.0)))
        axes.minorticks_off()
    else:
        margin = 0.08 * (high - low) or 0.1 * abs(high) or 1.0
        axes.set_ylim(low - margin, high + margin)
        axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value, 5)))


def curve(name: str, steps: Sequence[int], values: Sequence[float], smooth: bool = True) -> str:
    """One panel of the small multiples: the running mean over the raw values; what is set, not measured, as it is and from zero."""
    everything = np.asarray(values, dtype=float)
    finite = np.isfinite(everything)
    x, y = np.asarray(steps)[finite], everything[finite]
    lost = "" if finite.all() else f"; {(~finite).sum()} of {finite.size} values not finite"
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(3.0, 1.75), layout="constrained")
        axes = figure.add_subplot()
        if y.size:
            few = y.size < 6
            faint: dict[str, Any] = (
                {"alpha": 0.25, "linewidth": 0.9} if smooth and not few else {"linewidth": 1.7}
            )
            axes.plot(x, y, color=BLUE, marker="o" if few else "", markersize=3, **faint)
            set_axes(axes, y, log_from=10 if smooth else math.inf)
            if smooth and not few:
                axes.plot(x, running_mean(y), color=BLUE, linewidth=1.7)
            elif not smooth:
                axes.set_ylim(0, 1.15 * y.max() or 1.0)
        return card(figure, f"curve of {name} over training", f"{name}|last {short(everything[-1])}{lost}")


def monitored(
    text: str, steps: Sequence[int], values: Sequence[float], teacher: float | None, label: str
) -> str:
    """A distance measured during training, wide, with the teacher's as a dashed line where it is known."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.6, 2.9), layout="constrained")
        axes = figure.add_subplot(xlabel="step")
        axes.plot(steps, values, color=BLUE, linewidth=1.7, marker="o", markersize=3)
        if teacher is not None:
            axes.axhline(teacher, color=ORANGE, linewidth=1.2, linestyle=(0, (5, 3)))
            axes.annotate(
                label, (0.01, teacher), (0, 4), ("axes fraction", "data"), "offset points", color=ORANGE
            )  # the curve starts far above
        shown = np.asarray(
            [value for value in [*values, teacher] if value is not None and math.isfinite(value)]
        )
        if shown.size:
            set_axes(axes, shown, log_from=4)
            low, high = axes.get_ylim()
            axes.set_ylim(
                min(low, shown.min() / 1.15), max(high, shown.max() * 1.05)
            )  # few points: none may fall outside
        return card(figure, "the distance over training", text, "wide")


def reliability(
    predicted: Sequence[float],
    observed: Sequence[float],
    real: Sequence[float],
    student: Sequence[float],
    exact: Sequence[float] = (),
) -> str:
    """Predicted against observed log-ratio by bin, a point's area by the bin's samples, with the diagonal on which both agree, and the exact
    log-ratio where it is known."""
    samples = np.asarray(real) + np.asarray(student)
    ends = [min(*predicted, *observed, *exact), max(*predicted, *observed, *exact)]
    with matplotlib.rc_context({**STYLE, "axes.grid.axis": "both"}):
        figure = Figure(figsize=(4.2, 4.2), layout="constrained")
        axes = figure.add_subplot(xlabel="log-ratio predicted", ylabel="log-ratio observed", aspect="equal")
        axes.plot(ends, ends, color=ORANGE, linewidth=1.2, linestyle=(0, (5, 3)))
        axes.plot(predicted, observed, color=BLUE, linewidth=1.7)
        axes.scatter(predicted, observed, 10 + 90 * samples / samples.max(), color=BLUE, zorder=3)
        if exact:
            axes.scatter(predicted, exact, 60, color=ORANGE, marker="x", zorder=4, label="exact")
            axes.legend(loc="upper left")
        alt = "the log-ratio observed over the one predicted"
        return card(
            figure,
            alt,
            f"Predicted and observed|log-ratio in {len(predicted)} bins of the discriminator's logit",
            "wide",
        )


def time_bars(parts: Mapping[str, float]) -> str:
    """Seconds by part of the training loop, longest first, each with its share."""
    ordered = sorted(parts.items(), key=lambda part: part[1])
    total = sum(parts.values()) or 1.0
    with matplotlib.rc_context({**STYLE, "axes.grid": False, "ytick.color": INK}):
        figure = Figure(figsize=(7.6, 0.45 + 0.27 * len(ordered)), layout="constrained")
        axes = figure.add_subplot()
        bars = axes.barh(
            [name for name, _ in ordered], [seconds for _, seconds in ordered], color=BLUE, height=0.62
        )
        axes.bar_label(
            bars,
            [f"{short(seconds)} s · {seconds / total:.1%}" for _, seconds in ordered],
            padding=5,
            color=GREY,
        )
        axes.set_xlim(0, 1.22 * max(parts.values()) or 1.0)
        axes.spines[["bottom", "left"]].set_visible(False)
        axes.xaxis.set_visible(False)
        return card(figure, "seconds spent in each part", "Seconds by part|and share of the total", "wide")
