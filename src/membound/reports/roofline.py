"""The roofline picture: what a machine can do, and where measured work stands below it.

Arithmetic intensity (FLOP per byte read) on x, FLOP/s on y, both logarithmic: the slanted line is the
memory bandwidth, the flat ones the peaks. (Williams, Waterman, Patterson, CACM 2009.)
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import atan2, degrees, sqrt
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK = {"prefill": "#d9480f", "decode": "#1864ab"}
OTHER_INK, GREY = "#2b8a3e", "#495057"
LETTER_WIDTH, LABEL_HEIGHT, LABEL_DROP, LABEL_GAP = 7, 15, 10, 17  # pixels
MOST_TEXTS = 6  # points that an HTML picture writes beside, not only in its legend


@dataclass(frozen=True, slots=True)
class Point:
    """Work that took `seconds`: its FLOPs, the bytes it had to move, and the phase it is coloured by."""

    label: str
    phase: str  # "prefill" or "decode"
    flops: float
    bytes: float
    seconds: float

    @property
    def intensity(self) -> float:
        return self.flops / self.bytes

    @property
    def flops_per_s(self) -> float:
        return self.flops / self.seconds


@dataclass(frozen=True, slots=True)
class Picture:
    """What both the PNG and the HTML show."""

    title: str
    bandwidth_bytes_per_s: float
    peak_flops_per_s: Mapping[str, float]  # by precision
    points: Sequence[Point]

    def span(self) -> tuple[float, float]:
        """Intensities shown: around all points and ridges, in FLOP/byte."""
        ridges = [peak / self.bandwidth_bytes_per_s for peak in self.peak_flops_per_s.values()]
        shown = ridges + [point.intensity for point in self.points]
        return min(0.5, *shown) / 2, max(shown) * 4

    def roof(self, peak: float) -> tuple[list[float], list[float]]:
        """The corner points of one roof."""
        low, high = self.span()
        ridge = peak / self.bandwidth_bytes_per_s
        return [low, ridge, high], [low * self.bandwidth_bytes_per_s, peak, peak]

    def roof_label(self, precision: str) -> str:
        return f"{precision} {flops_rate(self.peak_flops_per_s[precision])}"


def flops_rate(flops_per_s: float) -> str:
    """FLOP/s as people read them."""
    if flops_per_s >= 1e12:
        return f"{flops_per_s / 1e12:,.1f} TFLOP/s"
    return f"{flops_per_s / 1e9:,.0f} GFLOP/s"


def write_png(picture: Picture, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9, 5.5), dpi=120)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("arithmetic intensity (FLOP per byte)")
    axes.set_ylabel("FLOP/s")
    axes.set_title(picture.title)
    axes.grid(visible=True, which="major", linewidth=0.4, alpha=0.6)
    _draw_roofs(axes, picture)
    for point in picture.points:
        ink = INK.get(point.phase, OTHER_INK)
        axes.scatter([point.intensity], [point.flops_per_s], s=48, color=ink, zorder=3, alpha=0.85)
    figure.tight_layout()  # from here on data has its place in the picture
    _write_bandwidth(axes, picture)
    _write_labels(axes, picture)
    figure.savefig(path)
    pyplot.close(figure)


def _draw_roofs(axes: "Axes", picture: Picture) -> None:
    for precision, peak in sorted(picture.peak_flops_per_s.items(), key=lambda item: item[1]):
        x, y = picture.roof(peak)
        axes.plot(x, y, color=GREY, linewidth=1.6)
        label = picture.roof_label(precision)
        axes.annotate(label, (x[-1], peak), ha="right", va="bottom", fontsize=8, color=GREY)


def _write_bandwidth(axes: "Axes", picture: Picture) -> None:
    """Along the slanted line, above it."""
    low = picture.span()[0] * 1.3
    ends = [(x, x * picture.bandwidth_bytes_per_s) for x in (low, 2 * low)]
    (x0, y0), (x1, y1) = axes.transData.transform(ends)
    axes.annotate(
        f"read {picture.bandwidth_bytes_per_s / 1e9:,.1f} GB/s",
        ends[0],
        xytext=(-4, 6),
        textcoords="offset points",
        rotation=degrees(atan2(y1 - y0, x1 - x0)),
        rotation_mode="anchor",
        fontsize=8,
        color=GREY,
    )


def _write_labels(axes: "Axes", picture: Picture) -> None:
    """To the right of the points, or to the left where the picture ends, and a little below; labels that
    would cover each other are set apart, with a line to their point.
    """
    places = [axes.transData.transform((p.intensity, p.flops_per_s)) for p in picture.points]
    order = sorted(range(len(places)), key=lambda index: -places[index][1])
    written: list[tuple[float, float, float]] = []  # left, right, height
    for index in order:
        x, y = places[index]
        point = picture.points[index]
        width = LABEL_GAP + LETTER_WIDTH * len(point.label)
        at_the_end = x + width > axes.bbox.x1
        left = x - width if at_the_end else x
        height = y - LABEL_DROP
        near = [other for start, end, other in written if start < left + width and left < end]
        if near:
            height = min(height, min(near) - LABEL_HEIGHT)
        written.append((left, left + width, height))
        ink = INK.get(point.phase, OTHER_INK)
        pixel = 72 / axes.figure.dpi  # in points, as offsets are given
        axes.annotate(
            point.label,
            (point.intensity, point.flops_per_s),
            xytext=((-1 if at_the_end else 1) * LABEL_GAP * pixel, (height - y) * pixel),
            textcoords="offset points",
            va="center",
            ha="right" if at_the_end else "left",
            fontsize=8,
            color=ink,
            bbox={"facecolor": "white", "alpha": 0.85, "edgecolor": "none", "pad": 1.5},
            arrowprops={
                "arrowstyle": "-",
                "color": ink,
                "linewidth": 0.5,
                "alpha": 0.5,
                "relpos": (float(at_the_end), 0.5),
            },
        )


def write_html(picture: Picture, path: Path) -> None:
    """One file that needs no network: plotly's script is inside."""
    from plotly import graph_objects

    figure = graph_objects.Figure()
    for precision, peak in picture.peak_flops_per_s.items():
        x, y = picture.roof(peak)
        label = picture.roof_label(precision)
        figure.add_scatter(
            x=x, y=y, mode="lines+text", line={"color": GREY}, showlegend=False, name=label,
            text=["", "", label], textposition="top left", textfont={"color": GREY},
        )  # fmt: skip
    low, high = picture.span()
    middle = sqrt(low * high)
    for point in picture.points:
        figure.add_scatter(
            x=[point.intensity],
            y=[point.flops_per_s],
            mode="markers+text" if len(picture.points) <= MOST_TEXTS else "markers",
            name=point.label,
            text=[point.label],
            textposition="bottom left" if point.intensity > middle else "bottom right",
            marker={"size": 11, "color": INK.get(point.phase, OTHER_INK)},
            hovertemplate=(
                f"{point.label}<br>%{{x:.2f}} FLOP/byte<br>%{{y:.3s}}FLOP/s<br>{point.seconds * 1e3:.2f} ms"
            ),
        )
    figure.update_xaxes(type="log", title="arithmetic intensity (FLOP per byte)", dtick=1)
    figure.update_yaxes(type="log", title="FLOP/s", dtick=1, exponentformat="SI")
    title = f"{picture.title}, which reads {picture.bandwidth_bytes_per_s / 1e9:,.1f} GB/s"
    figure.update_layout(title=title, template="plotly_white")
    figure.write_html(path, include_plotlyjs=True, full_html=True)
