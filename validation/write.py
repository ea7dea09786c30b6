"""Writes fitted values as the file that membound.costs.calibration reads."""

from __future__ import annotations

from pathlib import Path

from validation.serving_rows import ENGINES

COMMENT = """\
# From peak to real: shares of a part's own peaks, and times of the software in microseconds.
# Written by validation/fit_efficiencies.py; `error` is the standard error of the fit as a fraction of the
# value, or says where a value comes from that the data cannot tell.
"""
LIKE_DECODE = 'error = "as decode attention"'
LIKE_PROMPT = 'error = "as prompt attention"'
ASSUMED = """
[kinds.recurrence]
source = "assumed"
launch_us = { value = 8.0, error = "as decode attention, not measured" }
bandwidth = { value = 0.8, error = "as matrix products, not measured" }
compute_16 = { value = 0.3, error = "not measured" }

[kinds.other]
source = "assumed"
launch_us = { value = 0.0, error = "within the engine's overhead per layer" }
bandwidth = { value = 0.8, error = "as matrix products, not measured" }
compute_16 = { value = 0.75, error = "as matrix products, not measured" }
"""


def write(values: dict[str, float], errors: dict[str, float], path: Path) -> None:
    """The file that membound reads."""

    def line(table: str, name: str) -> str:
        key = f"{table} {name}"
        return f"{name} = {{ value = {values[key]:.4g}, error = {errors[key]:.2g} }}\n"

    text = COMMENT + "\n[form]\n"
    text += 'sharpness = { value = 2.0, error = "chosen: 2 to 3 fit alike, and a square root is quick" }\n'
    text += line("form", "activation_share") + line("form", "expert_skew") + line("form", "expert_imbalance")
    for kind in ("matmul", "attention", "prefill", "experts"):
        text += f'\n[kinds.{kind}]\nsource = "fitted"\n' + line(kind, "launch_us")
        if f"{kind} bandwidth" in values:
            text += line(kind, "bandwidth")
        else:
            text += f"bandwidth = {{ value = {values['attention bandwidth']:.4g}, {LIKE_DECODE} }}\n"
        shares = [
            name.split()[1]
            for name in values
            if name.startswith((f"{kind} compute", f"{kind} unpack", f"{kind} widen"))
        ]
        text += "".join(line(kind, share) for share in shares)
        if not shares:
            text += f"compute_16 = {{ value = {values['prefill compute_16']:.4g}, {LIKE_PROMPT} }}\n"
    text += ASSUMED + "\n[collectives]\n"
    text += "".join(line("collectives", n) for n in ("launch_us", "latency_share", "link_share"))
    for engine in ENGINES:
        names = (
            "per_layer_us",
            "per_step_us",
            "per_sequence_us",
            "prompt_layer_us",
            "link_factor",
            "server_ms",
        )
        text += f"\n[engines.{engine}]\n" + "".join(line(engine, name) for name in names)
    offsets = sorted(name for name in values if name.startswith("offsets "))
    text += "\n# Factors on a step of an engine on a part, held to one by a prior of 10 %.\n[offsets]\n"
    for name in offsets:
        pair = name.removeprefix("offsets ")
        text += f'"{pair}" = {{ value = {values[name]:.4g}, error = {errors[name]:.2g} }}\n'
    path.write_text(text, encoding="utf-8")
