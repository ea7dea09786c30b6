"""The memory wall as a picture: FLOP/s and bytes/s of each part in its year, on a logarithmic scale."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from membound.costs.wall import Device

Series = tuple[str, list[float], list[float], list[str]]  # name, years, growth since the first, parts


def _series(devices: Sequence[Device], kind: str) -> list[Series]:
    known = [device for device in devices if device.has(kind)]
    first = known[0]
    years, names = [device.year for device in known], [device.name for device in known]
    compute = [device.compute_tflops(kind) / first.compute_tflops(kind) for device in known]
    bandwidth = [device.bandwidth_gbs / first.bandwidth_gbs for device in known]
    return [(f"compute ({kind})", years, compute, names), ("memory bandwidth", years, bandwidth, names)]


def write_png(devices: Sequence[Device], kind: str, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9, 5.5), dpi=120)
    for name, years, growth, parts in _series(devices, kind):
        axes.scatter(years, growth, label=name, s=22)
        if name.startswith("compute"):
            for year, value, part in zip(years, growth, parts, strict=True):
                axes.annotate(part, (year, value), fontsize=6, xytext=(3, 3), textcoords="offset points")
    axes.set_yscale("log")
    axes.set_ylabel("times the first part")
    axes.set_title("The memory wall")
    axes.legend()
    axes.grid(visible=True, which="both", linewidth=0.3, alpha=0.5)
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)


def write_html(devices: Sequence[Device], kind: str, path: Path) -> None:
    """One file that needs no network."""
    from plotly import graph_objects

    figure = graph_objects.Figure()
    for name, years, growth, parts in _series(devices, kind):
        figure.add_scatter(x=years, y=growth, mode="markers", name=name, text=parts)
    figure.update_yaxes(type="log", title="times the first part")
    figure.update_layout(title="The memory wall", template="plotly_white")
    figure.write_html(path, include_plotlyjs=True, full_html=True)
