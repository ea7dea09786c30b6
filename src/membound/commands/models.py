"""membound models: the catalog of models, with what a step must read of each."""

from __future__ import annotations

from typing import Any

from membound.commands.output import print_json, print_table
from membound.models.families import build
from membound.models.names import catalog, read_config


def models_command(*, json: bool) -> None:
    rows = [_row(name) for name in catalog()]
    if json:
        print_json({"models": rows})
        return
    print_table(
        ("model", "family", "parameters", "active", "KV KiB/token", "stored"),
        [
            (
                row["name"],
                row["family"],
                f"{row['parameters'] / 1e9:.2f} B",
                f"{row['active_parameters'] / 1e9:.2f} B",
                f"{row['kv_bytes_per_token'] / 1024:.1f}",
                row["weights"],
            )
            for row in rows
        ],
    )


def _row(name: str) -> dict[str, Any]:
    dims = read_config(catalog()[name])
    graph = build(dims)
    return {
        "name": name,
        "family": dims.family,
        "parameters": graph.parameters(),
        "active_parameters": round(graph.active_parameters()),
        "kv_bytes_per_token": graph.kv_bytes_per_token(2),
        "growing_bytes_per_token": graph.growing_bytes_per_token(2),
        "bounded_bytes_per_sequence": graph.bounded_bytes_per_sequence(2),
        "context_length": dims.context_length,
        "layers": len(dims.layers),
        "weights": dims.quantization.format.name if dims.quantization else "bf16",
    }
