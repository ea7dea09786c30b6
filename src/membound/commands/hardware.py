"""membound hardware: the catalog of accelerators; blanks are figures that nobody published."""

from __future__ import annotations

from typing import Any

from membound.commands.output import print_json, print_table
from membound.hardware.accelerator import RATES, Accelerator
from membound.hardware.lookup import accelerators, find, what_ifs


def hardware_command(*, name: str | None, json: bool) -> None:
    if name is None:
        parts = [*accelerators().values(), *what_ifs().values()]
    else:
        parts = [find(name).accelerator]
    if json:
        print_json({"hardware": [as_json(part) for part in parts]})
        return
    print_table(
        ("hardware", "year", "GB", "TB/s", "16-bit", "FP8", "FP4", "ridge", "link GB/s"),
        [_row(part) for part in parts],
        title="TFLOP/s dense; ridge in FLOP/byte at 16 bits",
    )
    if name is not None:
        told = (f"{parts[0].name}: {parts[0].sources}", parts[0].notes, _unknown(parts[0]))
        print("\n".join(line for line in told if line))


def _unknown(part: Accelerator) -> str:
    """What nobody published of a part; a question that needs it is refused."""
    blanks = [rate for rate in RATES if rate not in part.peaks]
    figures = {"memory_bytes": "memory", "bandwidth_bytes_per_s": "bandwidth", "node_size": "size of a node"}
    blanks += [words for figure, words in figures.items() if figure not in part.figures]
    blanks += [words for words, link in (("link", part.link), ("network", part.network)) if link is None]
    return f"not published, or not there: {', '.join(blanks)}" if blanks else ""


def _row(part: Accelerator) -> tuple[str, ...]:
    def shown(value: float | None, by: float = 1.0, form: str = ",.0f") -> str:
        return "" if value is None else format(value / by, form)

    dense = part.peaks.get("bf16", part.peaks.get("fp16"))
    bandwidth = part.figures.get("bandwidth_bytes_per_s")
    return (
        part.id,
        str(part.year or ""),
        shown(part.figures.get("memory_bytes"), 1e9, ",.4g"),
        shown(bandwidth, 1e12, ".2f"),
        shown(dense, 1e12),
        shown(part.peaks.get("fp8"), 1e12),
        shown(part.peaks.get("fp4"), 1e12),
        shown(dense / bandwidth if dense and bandwidth else None),
        shown(part.link.bandwidth_bytes_per_s if part.link else None, 1e9),
    )


def as_json(part: Accelerator) -> dict[str, Any]:
    """A blank is null."""
    return {
        "id": part.id,
        "name": part.name,
        "vendor": part.vendor,
        "year": part.year,
        "status": part.status,
        **{
            figure: part.figures.get(figure)
            for figure in ("memory_bytes", "bandwidth_bytes_per_s", "tdp_w", "node_size", "price_usd_per_h")
        },
        "peak_flops_per_s": {rate: part.peaks.get(rate) for rate in RATES},
        "link_bytes_per_s": part.link.bandwidth_bytes_per_s if part.link else None,
        "network_bytes_per_s": part.network.bandwidth_bytes_per_s if part.network else None,
        "confidence": part.confidence,
        "sources": part.sources,
        "notes": part.notes,
    }
