"""Pictures made of characters."""

from __future__ import annotations

from collections.abc import Sequence
from math import log10
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from membound.reports.roofline import Picture

WIDTH, HEIGHT = 72, 16
MARKS = {"prefill": "P", "decode": "d"}


def roofline(picture: Picture, width: int = WIDTH, height: int = HEIGHT) -> str:
    """Intensity to the right, FLOP/s upwards, both logarithmic: the roof, and the points below it."""
    low, high = picture.span()
    peak = max(picture.peak_flops_per_s.values())
    top = log10(peak * 1.5)
    bottom = min(log10(low * picture.bandwidth_bytes_per_s), *(log10(p.flops_per_s) for p in picture.points))
    across, up = log10(high / low) / (width - 1), (top - bottom) / (height - 1)

    cells = [[" "] * width for _ in range(height)]

    def put(intensity: float, flops_per_s: float, mark: str) -> None:
        column = round(log10(intensity / low) / across)
        row = height - 1 - round((log10(flops_per_s) - bottom) / up)
        if 0 <= column < width and 0 <= row < height:
            cells[row][column] = mark

    for column in range(width):
        intensity = low * 10 ** (column * across)
        for roof in picture.peak_flops_per_s.values():
            reached = min(roof, intensity * picture.bandwidth_bytes_per_s)
            put(intensity, reached, "-" if reached == roof else "/")
    for point in picture.points:
        put(point.intensity, point.flops_per_s, MARKS.get(point.phase, "o"))
    lines = ["  FLOP/s, up to " + f"{peak / 1e12:,.1f} T"]
    lines += ["  |" + "".join(row).rstrip() for row in cells]
    ends = f"{low:.2g}", f"{high:.2g} FLOP/byte"
    lines += ["  +" + "-" * width, "   " + ends[0] + " " * (width - len("".join(ends))) + ends[1]]
    lines.append("   / memory bandwidth   - peak   P prefill   d decode")
    return "\n".join(lines)


def bars(rows: Sequence[tuple[str, float]], width: int = 48) -> str:
    """A bar for each row, as long as its value."""
    longest, most = max(len(name) for name, _ in rows), max(value for _, value in rows)
    return "\n".join(
        f"  {name:<{longest}}  {'█' * max(1, round(width * value / most))} {value:,.1f}"
        for name, value in rows
    )
