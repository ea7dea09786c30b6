"""membound wall: how arithmetic outgrew memory, and which pair of parts says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from membound.commands.output import print_json, print_table
from membound.costs import wall


def wall_command(
    *, start: str | None, end: str | None, kind: str, png: Path | None, html: Path | None, json: bool
) -> None:
    ridges = wall.ridges(kind)
    pairs = [wall.growth(*pair) for pair in wall.PAIRS]
    if start is not None or end is not None:
        pairs = [wall.growth(start or "Tesla K20X", end or wall.SERVER_GPUS[-1], kind)]
    known = list(wall.devices().values())
    if png is not None or html is not None:
        from membound.reports.wall import write_html, write_png

        if png is not None:
            write_png(known, kind, png)
        if html is not None:
            write_html(known, kind, html)
    march = wall.device("H100 SXM, March 2022 preliminary").year
    fits = {"as dated": wall.fit(), "H100 dated March 2022": wall.fit(dated={"H100 SXM": march})}
    if json:
        print_json(_as_json(pairs, fits, ridges))
    else:
        _print(pairs, fits, ridges, kind)


def _as_json(pairs: list[wall.Growth], fits: dict[str, wall.Fit], ridges: list[wall.Ridge]) -> dict[str, Any]:
    chosen = fits["as dated"]
    return {
        "pairs": [
            {
                "from": pair.start,
                "to": pair.end,
                "kind": pair.kind,
                "years": pair.years,
                "compute_growth": pair.compute,
                "bandwidth_growth": pair.bandwidth,
            }
            for pair in pairs
        ],
        "fit": {
            "devices": list(chosen.devices),
            "kind": chosen.kind,
            "per_years": chosen.per_years,
            "compute_growth": chosen.compute,
            "bandwidth_growth": chosen.bandwidth,
            "other_dating": {
                name: {"compute_growth": fit.compute, "bandwidth_growth": fit.bandwidth}
                for name, fit in fits.items()
                if fit is not chosen
            },
        },
        "gholami_per_2_years": wall.gholami(),
        "ridge_by_year": [
            {"year": year, "device": name, "flops_per_byte": ridge} for year, name, ridge in ridges
        ],
        "hbm_generations": [
            {"year": year, "generation": name, "gbs_per_stack": speed}
            for year, name, speed in wall.hbm_generations()
        ],
    }


def _print(pairs: list[wall.Growth], fits: dict[str, wall.Fit], ridges: list[wall.Ridge], kind: str) -> None:
    print_table(
        ("from", "to", "arithmetic", "years", "compute", "bandwidth", "gap"),
        [
            (
                pair.start,
                pair.end,
                pair.kind,
                f"{pair.years:.1f}",
                f"{pair.compute:.1f}x",
                f"{pair.bandwidth:.1f}x",
                f"{pair.compute / pair.bandwidth:.1f}x",
            )
            for pair in pairs
        ],
        title="Growth between two parts: the number depends on the pair",
    )
    print(f"Log-linear fit through {', '.join(fits['as dated'].devices)}, FP64, per 10 years:")
    for name, fit in fits.items():
        print(f"  {name}: compute {fit.compute:.1f}x, bandwidth {fit.bandwidth:.1f}x")
    slopes = ", ".join(f"{name} {slope:.2f}x" for name, slope in wall.gholami().items())
    print(f"Gholami et al. (2024), figure 1, per 2 years: {slopes}")
    from membound.reports.terminal import bars

    print(f"\nFLOP/byte at the ridge, by year ({kind}):")
    print(bars([(f"{year:.1f} {name}", ridge) for year, name, ridge in ridges]))
    print("\nGB/s of one HBM stack:")
    print(bars([(f"{year} {name}", float(speed)) for year, name, speed in wall.hbm_generations()]))
