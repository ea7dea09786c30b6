"""The roofline picture: what a machine can do, and where measured work stands below it.

Arithmetic intensity (FLOP per byte read) on x, FLOP/s on y, both logarithmic: the slanted line is the
memory bandwidth, the flat ones the peaks. (Williams, Waterman, Patterson, CACM 2009.)
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

INK = {"prefill": "#d9480f", "decode": "#1864ab"}


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
        return f"{precision} {self.peak_flops_per_s[precision] / 1e9:,.0f} GFLOP/s"


def write_png(picture: Picture, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9, 5.5), dpi=120)
    low, _ = picture.span()
    for precision, peak in sorted(picture.peak_flops_per_s.items(), key=lambda item: item[1]):
        x, y = picture.roof(peak)
        axes.plot(x, y, color="#495057", linewidth=1.6)
        axes.annotate(
            picture.roof_label(precision),
            (x[-1], peak),
            ha="right",
            va="bottom",
            fontsize=8,
            color="#495057",
        )
    axes.annotate(
        f"read {picture.bandwidth_bytes_per_s / 1e9:.1f} GB/s",
        (low * 1.3, low * 1.3 * picture.bandwidth_bytes_per_s),
        ha="left",
        va="bottom",
        rotation=32,
        fontsize=8,
        color="#495057",
    )
    for point in picture.points:
        ink = INK.get(point.phase, "#2b8a3e")
        axes.scatter([point.intensity], [point.flops_per_s], s=48, color=ink, zorder=3)
        axes.annotate(
            point.label,
            (point.intensity, point.flops_per_s),
            xytext=(6, -11),
            textcoords="offset points",
            fontsize=8,
            color=ink,
        )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("arithmetic intensity (FLOP per byte)")
    axes.set_ylabel("FLOP/s")
    axes.set_title(picture.title)
    axes.grid(visible=True, which="both", linewidth=0.3, alpha=0.5)
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)


def write_html(picture: Picture, path: Path) -> None:
    """One file that needs no network: plotly's script is inside."""
    from plotly import graph_objects

    figure = graph_objects.Figure()
    for precision, peak in picture.peak_flops_per_s.items():
        x, y = picture.roof(peak)
        figure.add_scatter(x=x, y=y, mode="lines", name=picture.roof_label(precision))
    for point in picture.points:
        figure.add_scatter(
            x=[point.intensity],
            y=[point.flops_per_s],
            mode="markers+text",
            name=point.label,
            text=[point.label],
            textposition="bottom right",
            marker={"size": 11, "color": INK.get(point.phase, "#2b8a3e")},
            hovertemplate=(
                f"{point.label}<br>%{{x:.2f}} FLOP/byte<br>%{{y:.3s}}FLOP/s<br>{point.seconds * 1e3:.2f} ms"
            ),
        )
    figure.update_xaxes(type="log", title="arithmetic intensity (FLOP per byte)")
    figure.update_yaxes(type="log", title="FLOP/s")
    figure.update_layout(title=picture.title, template="plotly_white")
    figure.write_html(path, include_plotlyjs=True, full_html=True)
