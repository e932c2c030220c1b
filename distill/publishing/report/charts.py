"""Charts and image grids as HTML for a run's report, which needs nothing outside the page.

Charts are drawn on `Figure` objects, never through pyplot, so that writing a report leaves no global state
behind in a training process. Each chart is an image of its own (SVG in a data URI), and the page arranges
them for its width.
"""

from __future__ import annotations

import base64
import hashlib
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

from distill.publishing.report.numbers import short, short_count

BLUE = "#2a6fbb"
ORANGE = "#c8551b"
INK = "#333a44"
GREY = "#7a828e"
PALE = "#e6e9ee"
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
FONTS = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', 'Liberation Sans', Arial, sans-serif"
"""Fonts that readers have. They fit where matplotlib laid text out with its own font, which is wider."""
NARROW = 600
"""Width in pixels of the screens that the style sheet calls narrow."""
PIXELATED_UP_TO = 512
"""Width in pixels up to which an image is scaled without smoothing. A wider one holds photographs, which need
it."""


def data_uri(content: bytes, kind: str) -> str:
    """Encode bytes of a MIME type as a URI."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def svg_uri(figure: Figure) -> str:
    """Draw a figure as an SVG in a data URI."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None}, transparent=True)
    families = ", ".join(repr(name) for name in matplotlib.rcParams["font.sans-serif"])
    text = buffer.getvalue().replace(f"{families}, sans-serif", FONTS).replace(families, FONTS)
    return data_uri(text.encode(), "image/svg+xml")


def caption(text: str) -> str:
    """Make a caption of plain text, with the part before the first '|' in bold."""
    head, _, tail = text.partition("|")
    return f"<figcaption><b>{escape(head)}</b> {escape(tail)}</figcaption>"


def enlargeable(picture: str, content: str) -> str:
    """Make a picture that one click opens as large as the window and the next closes, without a script.

    The figure that holds it must have the identifier `figure_id(content)`.
    """
    return (
        f'<a class="open" href="#{figure_id(content)}" title="Enlarge">{picture}</a>'
        '<a class="close" href="#closed" aria-label="Close"></a>'
    )


def figure_id(content: str) -> str:
    """Return an identifier of a figure by its content, so that the same run gives the same page."""
    return f"figure-{hashlib.sha256(content.encode()).hexdigest()[:12]}"


def card(figure: Figure, alt: str, text: str, kind: str = "", narrow: Figure | None = None) -> str:
    """Put a chart on a card, whose colours the style sheet inverts on a dark page.

    A narrow screen shows `narrow` in its place, if it is given: a wide chart scaled down cannot be read.
    """
    picture = f'<img src="{svg_uri(figure)}" alt="{escape(alt)}">'
    if narrow is not None:
        source = f'<source media="(max-width: {NARROW}px)" srcset="{svg_uri(narrow)}">'
        picture = f"<picture>{source}{picture}</picture>"
    body = f'{caption(text)}<div class="card">{enlargeable(picture, text + picture)}</div>'
    return f'<figure id="{figure_id(text + picture)}" class="{kind}">{body}</figure>'


def image(path: Path, text: str, kind: str = "") -> str | None:
    """Inline a PNG or GIF file as it is; None if it is absent or no image.

    `kind` is the class of the figure.
    """
    try:
        with Image.open(path, formats=("PNG", "GIF")) as opened:
            mime = Image.MIME[str(opened.format)]
            opened.verify()
            width, height = opened.size
    except (OSError, SyntaxError):  # PIL reports broken PNG chunks as SyntaxError
        return None
    style = "grid pixelated" if width <= PIXELATED_UP_TO else "grid"
    size = f'width="{width}" height="{height}" alt="{escape(text.replace("|", ", "))}"'
    source = data_uri(path.read_bytes(), mime)
    picture = f'<img class="{style}" src="{source}" {size}>'
    body = enlargeable(picture, text + picture)
    classes = f' class="{kind}"' if kind else ""
    return f'<figure id="{figure_id(text + picture)}"{classes}>{body}{caption(text)}</figure>'


def running_mean(values: np.ndarray) -> np.ndarray:
    """Average over a centred window of about a fifteenth of the run, cut off at the ends.

    Unlike an exponential mean it has no lag.
    """
    window = np.ones(max(1, len(values) // 30) * 2 + 1)
    return np.convolve(values, window, "same") / np.convolve(np.ones_like(values), window, "same")


def set_axes(axes: Axes, values: np.ndarray, log_from: float = 10) -> None:
    """Set the number format of both axes, and a vertical range that leaves out the outermost 0.5 % of values.

    The vertical axis is logarithmic if that range spans more than a factor of `log_from`.
    """
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(short_count))
    low, high = np.quantile(values, (0.005, 0.995))
    if values.min() > 0 and high > log_from * low:
        axes.set_yscale("log")
        axes.set_ylim(low / 1.25, high * 1.25)
        # Below three decades 2 and 5 are labelled too: a curve between two distant ticks cannot be read.
        ticks = (1.0,) if high > 1e3 * low else (1.0, 2.0, 5.0)
        axes.yaxis.set_major_locator(LogLocator(subs=ticks))
        axes.minorticks_off()
    else:
        margin = 0.08 * (high - low) or 0.1 * abs(high) or 1.0
        axes.set_ylim(low - margin, high + margin)
        axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value, 5)))


def curve(
    name: str, steps: Sequence[int], values: Sequence[float], smooth: bool = True, unit: str = ""
) -> str:
    """Draw one small panel: a running mean over the faint raw values, with the unit at the vertical axis.

    With `smooth` False the values are drawn as they are, from zero: for what is set, not measured.
    """
    everything = np.asarray(values, dtype=float)
    finite = np.isfinite(everything)
    lost = "" if finite.all() else f"; {(~finite).sum()} of {finite.size} values not finite"
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(3.0, 1.95), layout="constrained")
        axes = figure.add_subplot(xlabel="step", ylabel=unit)
        if finite.any():
            _draw_curve(axes, np.asarray(steps)[finite], everything[finite], smooth)
        return card(
            figure,
            f"curve of {name} over training",
            f"{name}|last {f'{short(everything[-1])} {unit}'.strip()}{lost}{_say_log(axes)}",
        )


def _say_log(axes: Axes) -> str:
    """Say in a caption that the vertical axis is logarithmic; nothing if it is not."""
    return ", logarithmic axis" if axes.get_yscale() == "log" else ""


def _draw_curve(axes: Axes, x: np.ndarray, y: np.ndarray, smooth: bool) -> None:
    is_short = y.size < 6
    has_mean = smooth and not is_short
    line: dict[str, Any] = {"alpha": 0.25, "linewidth": 0.9} if has_mean else {"linewidth": 1.7}
    axes.plot(x, y, color=BLUE, marker="o" if is_short else "", markersize=3, **line)
    set_axes(axes, y, log_from=10 if smooth else math.inf)
    if has_mean:
        axes.plot(x, running_mean(y), color=BLUE, linewidth=1.7)
    if not smooth:
        axes.set_ylim(0, 1.15 * y.max() or 1.0)


def monitored(
    text: str, steps: Sequence[int], values: Sequence[float], teacher: float | None, label: str
) -> str:
    """Draw a distance measured during training, with the teacher's as a dashed line if it is known."""
    with matplotlib.rc_context(STYLE):
        figures = [Figure(figsize=size, layout="constrained") for size in ((7.6, 2.9), (3.6, 2.7))]
        for figure in figures:
            axes = figure.add_subplot(xlabel="step", ylabel=text.partition("|")[0])
            _draw_monitored(axes, steps, values, teacher, label)
        wide, narrow = figures
        said = text + _say_log(wide.axes[0])
        return card(wide, "the distance over training", said, "wide", narrow)


def _draw_monitored(
    axes: Axes, steps: Sequence[int], values: Sequence[float], teacher: float | None, label: str
) -> None:
    axes.plot(steps, values, color=BLUE, linewidth=1.7, marker="o", markersize=3)
    if teacher is not None:
        axes.axhline(teacher, color=ORANGE, linewidth=1.2, linestyle=(0, (5, 3)))
        # The label stands at the left, where the curve is far above the teacher's line.
        place = (0.01, teacher)
        axes.annotate(label, place, (0, 4), ("axes fraction", "data"), "offset points", color=ORANGE)
    known = [value for value in [*values, teacher] if value is not None and math.isfinite(value)]
    if known:
        set_axes(axes, np.asarray(known), log_from=4)
        low, high = axes.get_ylim()
        # There are few points, of which none may fall outside.
        axes.set_ylim(min(low, min(known) / 1.15), max(high, max(known) * 1.05))


def reliability(
    predicted: Sequence[float],
    observed: Sequence[float],
    real: Sequence[float],
    student: Sequence[float],
    exact: Sequence[float] = (),
) -> str:
    """Draw the observed over the predicted log-ratio of each bin, with the diagonal on which they agree.

    The area of a point grows with the samples in its bin, `real` and `student`. `exact` adds the exact
    log-ratios.
    """
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
        text = f"Predicted and observed|log-ratio in {len(predicted)} bins of the discriminator's logit"
        return card(figure, "the log-ratio observed over the one predicted", text, "square")


def time_bars(parts: Mapping[str, float]) -> str:
    """Draw the seconds that each part of the training loop took, longest first, and its share."""
    ordered = dict(sorted(parts.items(), key=lambda part: part[1]))
    with matplotlib.rc_context({**STYLE, "axes.grid": False, "ytick.color": INK}):
        height = 0.45 + 0.27 * len(ordered)
        figures = [Figure(figsize=(width, height), layout="constrained") for width in (7.6, 3.6)]
        for figure, room in zip(figures, (1.22, 1.8), strict=True):
            _draw_bars(figure.add_subplot(), ordered, room)
        wide, narrow = figures
        text = "Seconds by part|and share of the total"
        return card(wide, "seconds spent in each part", text, "wide", narrow)


def _draw_bars(axes: Axes, parts: Mapping[str, float], room: float) -> None:
    """Draw bars with their numbers beside them; the axis is `room` times as long as the longest bar."""
    total = sum(parts.values()) or 1.0
    labels = [f"{short(seconds)} s · {seconds / total:.1%}" for seconds in parts.values()]
    bars = axes.barh(list(parts), list(parts.values()), color=BLUE, height=0.62)
    axes.bar_label(bars, labels, padding=5, color=GREY)
    axes.set_xlim(0, room * max(parts.values()) or 1.0)
    axes.spines[["bottom", "left"]].set_visible(False)
    axes.xaxis.set_visible(False)
