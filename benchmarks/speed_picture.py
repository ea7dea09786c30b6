"""The roofline with every engine's points: colour tells the engine, shape the step."""

import statistics
from pathlib import Path

from compared import OURS, TOKENS, measured, median
from gguf import GGMLQuantizationType
from peer_models import gguf
from results import Column

from membound.measuring.ruler import Ruler
from membound.models.operators import Chunk
from membound.models.weights import open_weights

INK = {"membound": "#d9480f", "llama.cpp": "#1864ab", "openvino": "#2b8a3e", "vllm": "#862e9c"}
SHAPE = {"prefill": "s", "b1": "o", "b8": "^", "b32": "D"}


def bf16_bytes(model: str, threads: int) -> float:
    """Weights that a step of vLLM reads."""
    ruler = Ruler(open_weights(gguf(model, threads)), 2)
    ruler.types = dict.fromkeys(ruler.types, GGMLQuantizationType.BF16)
    return ruler.work([Chunk(1, 0)]).weight_bytes


def points(model: str, kept: dict[str, Column], threads: int) -> list[tuple[str, str, float, float]]:
    """(engine, column, FLOP per byte, FLOP/s) of each timed column; the work is the same for all engines,
    the bytes of weights are those that each one reads.
    """
    found = []
    for name in TOKENS:
        column = kept.get(name)
        if column is None or OURS not in measured(column):
            continue
        flops, moved, weights = (median(column, OURS, key) for key in ("flops", "bytes", "weight_bytes"))
        for engine in measured(column):
            own = moved - weights + bf16_bytes(model, threads) if engine == "vllm" else moved
            found.append((engine, name, flops / own, flops / median(column, engine, "seconds")))
    return found


def roofs(kept: dict[str, dict[str, Column]]) -> tuple[float, float]:
    """Median bandwidth and int8 rate of all probes beside the timings."""
    ours = [
        measured(column)[OURS]
        for columns in kept.values()
        for name, column in columns.items()
        if name in TOKENS and OURS in measured(column)
    ]
    bandwidths: list[float] = [value for figures in ours for value in figures["bandwidth_bytes_per_s"]]
    peaks: list[float] = [value for figures in ours for value in figures["flops_per_s"]]
    return statistics.median(bandwidths), statistics.median(peaks)


def draw(kept: dict[str, dict[str, Column]], path: Path, threads: int) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.lines import Line2D

    bandwidth, peak = roofs(kept)
    every = [point for model, columns in kept.items() for point in points(model, columns, threads)]
    low, high = min(p[2] for p in every) / 2, max(p[2] for p in every) * 2
    figure, axes = pyplot.subplots(figsize=(9, 6), dpi=120)
    corners = [low, peak / bandwidth, high]
    axes.plot(corners, [low * bandwidth, peak, peak], color="#495057", linewidth=1.6)
    axes.annotate(f"{peak / 1e9:,.0f} G/s", (high, peak), ha="right", va="bottom", fontsize=8)
    axes.annotate(f"read {bandwidth / 1e9:.1f} GB/s", (low, low * bandwidth), va="bottom", fontsize=8)
    for engine, name, intensity, flops_per_s in every:
        axes.scatter([intensity], [flops_per_s], s=36, color=INK[engine], marker=SHAPE[name], alpha=0.8)
    shown = [Line2D([], [], color=INK[e], marker="o", linestyle="", label=e) for e in INK]
    shown += [
        Line2D([], [], color="#495057", marker=shape, linestyle="", label=name)
        for name, shape in SHAPE.items()
    ]
    axes.legend(handles=shown, fontsize=8, loc="lower right")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("arithmetic intensity (FLOP per byte)")
    axes.set_ylabel("FLOP/s")
    axes.set_title("Steps of every engine below the probed roof")
    axes.grid(visible=True, which="both", linewidth=0.3, alpha=0.5)
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)
