"""membound probe: this machine's roofs."""

from typing import Any

from membound.commands.output import print_json, print_table, rate, size, status
from membound.hardware.probe import Roofs, probe


def probe_command(*, threads: int | None, json: bool) -> None:
    with status("probing", quiet=json) as say:
        roofs = probe(threads=threads, progress=say)
    if json:
        print_json(as_json(roofs))
        return
    print(f"{roofs.processor}, {roofs.cores} threads, {roofs.instruction_set}")
    rows = [(size(working_set), rate(speed)) for working_set, speed in roofs.bandwidths]
    print_table(("working set", "read bandwidth"), rows)
    peaks = [
        (precision, f"{peak / 1e9:,.0f}", f"{roofs.ridges[precision]:.0f}")
        for precision, peak in roofs.peaks.items()
    ]
    print_table(("precision", "peak, GFLOP/s", "ridge, FLOP/byte"), peaks)


def as_json(roofs: Roofs) -> dict[str, Any]:
    return {
        "read_bandwidth_bytes_per_s": roofs.read_bandwidth_bytes_per_s,
        "peak_flops_per_s": roofs.peaks,
        "ridge_flops_per_byte": roofs.ridges,
        "cores": roofs.cores,
        "instruction_set": roofs.instruction_set,
        "processor": roofs.processor,
        "read_bandwidth_by_working_set": [
            {"working_set_bytes": working_set, "bytes_per_s": speed}
            for working_set, speed in roofs.bandwidths
        ],
    }
