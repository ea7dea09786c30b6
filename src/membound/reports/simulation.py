"""A simulated run as pictures: what ran and waited over time, and how latencies are distributed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

Series = Sequence[float]


@dataclass(frozen=True)
class Picture:
    """Times in seconds; `distributions` holds samples by name, `limits` the SLO of some of them."""

    title: str
    time_s: Series
    running: Series
    waiting: Series
    used_share: Series  # of the KV cache
    distributions: Mapping[str, Series]
    limits: Mapping[str, float]
    lines: Sequence[str]  # what bounded the run, and other remarks
    rows: Sequence[tuple[str, ...]]  # the table; the first is its head


def steps_of(values: Series, points: int = 400) -> tuple[list[float], list[float]]:
    """The distribution of a sample: values, and the share of the sample up to each."""
    ordered = sorted(values)
    count = len(ordered)
    places = sorted({round(i * (count - 1) / (points - 1)) for i in range(points)}) if count else []
    return [ordered[place] for place in places], [(place + 1) / count for place in places]


def write_png(picture: Picture, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(3, 1, figsize=(9, 9), dpi=120)
    axes[0].fill_between(picture.time_s, picture.running, color="#1864ab", alpha=0.5, label="running")
    axes[0].plot(picture.time_s, picture.waiting, color="#d9480f", linewidth=1, label="waiting")
    axes[0].set_ylabel("requests")
    axes[0].legend(fontsize=8)
    axes[0].set_title(picture.title, fontsize=10)
    axes[1].fill_between(
        picture.time_s, [100 * share for share in picture.used_share], color="#2b8a3e", alpha=0.5
    )
    axes[1].set_ylabel("KV cache in use (%)")
    axes[1].set_xlabel("seconds")
    for name, values in picture.distributions.items():
        x, y = steps_of(values)
        axes[2].plot(x, y, label=name)
        if name in picture.limits:
            axes[2].axvline(picture.limits[name], linestyle=":", linewidth=1, color="#495057")
    axes[2].set_xscale("log")
    axes[2].set_xlabel("seconds")
    axes[2].set_ylabel("share of requests")
    axes[2].legend(fontsize=8)
    for one in axes:
        one.grid(visible=True, which="both", linewidth=0.3, alpha=0.5)
    figure.tight_layout()
    figure.savefig(path, format="png")
    pyplot.close(figure)


def write_html(picture: Picture, path: Path) -> None:
    """One file that needs no network: the table, the remarks, and the pictures with plotly's script."""
    from plotly import graph_objects
    from plotly.subplots import make_subplots

    figure = make_subplots(
        rows=3, cols=1, subplot_titles=("requests", "KV cache in use (%)", "share of requests within")
    )
    time_s = list(picture.time_s)
    figure.add_scatter(
        x=time_s, y=list(picture.running), name="running", fill="tozeroy", row=1, col=1, line_color="#1864ab"
    )
    figure.add_scatter(x=time_s, y=list(picture.waiting), name="waiting", row=1, col=1, line_color="#d9480f")
    figure.add_scatter(
        x=time_s,
        y=[100 * share for share in picture.used_share],
        name="KV cache (%)",
        fill="tozeroy",
        row=2,
        col=1,
        line_color="#2b8a3e",
    )
    for name, values in picture.distributions.items():
        x, y = steps_of(values)
        figure.add_scatter(x=x, y=y, name=name, row=3, col=1)
        if name in picture.limits:
            figure.add_shape(
                graph_objects.layout.Shape(
                    type="line", x0=picture.limits[name], x1=picture.limits[name], y0=0, y1=1, line_dash="dot"
                ),
                row=3,
                col=1,
            )
    figure.update_xaxes(title="seconds", row=2, col=1)
    figure.update_xaxes(type="log", title="seconds", row=3, col=1)
    figure.update_layout(template="plotly_white", height=1000, margin={"t": 40})
    head, *rows = picture.rows
    table = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    path.write_text(
        "<!doctype html><html lang=en><meta charset=utf-8>"
        f"<title>{escape(picture.title)}</title><style>body{{font:15px/1.5 system-ui;margin:2em auto;"
        "max-width:70em;padding:0 1em}td,th{padding:.2em 1em;text-align:right}td:first-child,"
        "th:first-child{text-align:left}table{border-collapse:collapse}tr{border-top:1px solid #ddd}</style>"
        f"<h1>{escape(picture.title)}</h1><table><tr>{''.join(f'<th>{escape(c)}</th>' for c in head)}</tr>"
        f"{table}</table><ul>{''.join(f'<li>{escape(line)}</li>' for line in picture.lines)}</ul>"
        f"{figure.to_html(include_plotlyjs=True, full_html=False)}</html>",
        encoding="utf-8",
    )
