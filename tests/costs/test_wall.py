"""The memory wall's numbers, each from the catalog and from the pair that gives it."""

import csv
from pathlib import Path

import pytest

from membound.costs import wall
from membound.errors import InputError

PAIRS = Path(__file__).parents[1] / "data" / "memory_wall_pairs.csv"


def test_every_known_pair_comes_out() -> None:
    kinds = {"fp64 tensor": "fp64", "fp64 vector": "fp64-vector"}
    with PAIRS.open(newline="") as file:
        for row in csv.DictReader(file):
            grown = wall.growth(row["start"], row["end"], kinds[row["fp64_kind"]])
            assert grown.compute == pytest.approx(float(row["compute_ratio"]), abs=0.0501)
            assert grown.bandwidth == pytest.approx(float(row["bandwidth_ratio"]), abs=0.0501)


@pytest.mark.parametrize(
    ("start", "end", "kind", "compute", "bandwidth"),
    [
        ("Tesla M2090", "H100 SXM, March 2022 preliminary", "fp64", 90, 16.9),
        ("Tesla K20X", "H100 SXM", "fp64", 51, 13.4),
        ("Tesla K20X", "H100 SXM", "fp64-vector", 25.6, 13.4),
        ("Tesla K20X", "H100 SXM", "llm", 250, 13.4),
    ],
)
def test_which_pair_gives_which_number(
    start: str, end: str, kind: str, compute: float, bandwidth: float
) -> None:
    grown = wall.growth(start, end, kind)
    assert grown.compute == pytest.approx(compute, rel=0.005)
    assert grown.bandwidth == pytest.approx(bandwidth, abs=0.05)


def test_the_fit_through_server_gpus_and_its_other_dating() -> None:
    as_dated = wall.fit()
    assert as_dated.compute == pytest.approx(54.7, abs=0.05)
    assert as_dated.bandwidth == pytest.approx(13.5, abs=0.05)
    moved = wall.fit(dated={"H100 SXM": wall.device("H100 SXM, March 2022 preliminary").year})
    assert moved.compute == pytest.approx(63, abs=0.5)
    assert moved.bandwidth == pytest.approx(15, abs=0.15)


def test_gholami_slopes_per_two_years() -> None:
    slopes = wall.gholami()
    assert slopes["flops"] == pytest.approx(3.0, abs=0.03)
    assert slopes["dram"] == pytest.approx(1.592, abs=0.001)
    assert slopes["interconnect"] == pytest.approx(1.415, abs=0.001)


def test_fp64_falls_after_2022() -> None:
    peaks = [wall.device(n).compute_tflops("fp64") for n in ("H100 SXM", "B200 SXM", "GB300 (per GPU)")]
    assert peaks == [66.9, 37.0, 1.4]


def test_ridges_by_year() -> None:
    ridges = {name: (year, ridge) for year, name, ridge in wall.ridges("16-bit")}
    assert ridges["H100 SXM"][1] == pytest.approx(295.3, abs=0.05)
    assert ridges["A100 SXM 40GB"][1] == pytest.approx(200.6, abs=0.05)
    years = [year for year, _, _ in wall.ridges()]
    assert years == sorted(years)


def test_hbm_grew_sixteenfold_in_thirteen_years() -> None:
    generations = wall.hbm_generations()
    assert [speed for _, _, speed in generations] == [128, 307, 461, 819, 1254, 2048]
    assert generations[-1][2] / generations[0][2] == 16


def test_bad_questions_are_refused() -> None:
    with pytest.raises(InputError, match="names 0 parts"):
        wall.device("Voodoo")
    with pytest.raises(InputError, match="names 3 parts"):
        wall.device("H100")
    with pytest.raises(InputError, match="no fp64 rate is published"):
        wall.growth("TPU v2", "TPU v3")
    with pytest.raises(InputError, match="unknown kind"):
        wall.growth("Tesla K20X", "H100 SXM", "fp3")
    with pytest.raises(InputError, match="at least two dates"):
        wall.fit(["Tesla K20X"])
