"""The catalog of hardware: published figures, blanks refused by name, user files."""

from pathlib import Path

import pytest

from membound.errors import InputError
from membound.hardware.lookup import accelerators, find, read_toml, this_machine, what_ifs


def test_every_row_of_the_catalog_is_a_part() -> None:
    parts = accelerators()
    assert len(parts) == 60
    assert all(part.figures.get("bandwidth_bytes_per_s", 0) > 0 and part.sources for part in parts.values())


@pytest.mark.parametrize(
    ("name", "rate", "ridge"),
    [
        ("h100-sxm", "bf16", 295.3),
        ("h200-sxm", "bf16", 206.1),
        ("h100-pcie", "bf16", 378.0),
        ("h100-sxm", "fp8", 590.7),
    ],
)
def test_ridges_of_the_talk(name: str, rate: str, ridge: float) -> None:
    assert find(name).accelerator.ridge(rate) == pytest.approx(ridge, abs=0.05)


def test_a_count_makes_a_cluster_of_nodes() -> None:
    eight, sixteen = find("8xh100-sxm"), find("16xH100-SXM")
    assert (eight.count, eight.name, eight.node_size) == (8, "8xh100-sxm", 8)
    assert eight.link_between(8).bandwidth_bytes_per_s == 450e9
    assert sixteen.link_between(16).bandwidth_bytes_per_s == 50e9
    assert sixteen.link_between(16).latency_s > sixteen.link_between(8).latency_s


@pytest.mark.parametrize(
    ("part", "figure"), [("epyc9654", "memory_bytes"), ("tpu-8i", "node_size"), ("m5max", "tdp_w")]
)
def test_a_blank_is_refused_by_name(part: str, figure: str) -> None:
    with pytest.raises(InputError, match=f"{part}: {figure} is not published"):
        find(part).accelerator.figure(figure)


def test_unknown_peaks_and_links_are_refused_by_name() -> None:
    with pytest.raises(InputError, match="wse3: no bf16 rate"):
        find("wse3").accelerator.peak("bf16")
    with pytest.raises(InputError, match=r"m5max: no bf16 rate .* nor a wider one"):
        find("m5max").accelerator.native_rate("bf16")
    with pytest.raises(InputError, match="inferentia2: link_gbs"):
        find("inferentia2").link_between(2)
    with pytest.raises(InputError, match="rtx4090: network_gbs"):
        find("rtx4090").link_between(8)


@pytest.mark.parametrize(
    ("part", "rate", "runs_at"),
    [
        ("h100-sxm", "fp4", "fp8"),
        ("b200-sxm", "fp4", "fp4"),
        ("a100-80-sxm", "fp8", "bf16"),
        ("tpu-v5p", "fp8", "bf16"),
        ("v100-sxm2", "bf16", "fp16"),
        ("m4max", "bf16", "fp32"),
    ],
)
def test_what_a_part_cannot_multiply_runs_at_the_next_wider_rate(part: str, rate: str, runs_at: str) -> None:
    assert find(part).accelerator.native_rate(rate) == runs_at


def test_an_unknown_name_is_refused_with_near_ones() -> None:
    with pytest.raises(InputError, match="did you mean h100-sxm"):
        find("h100-smx")
    with pytest.raises(InputError, match="count of at least 1"):
        find("0xh100-sxm")


def test_a_user_file_starts_from_a_part(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(
        'base = "h100-sxm"\nmem_gb = 160\n[peak_tflops]\nfp4 = 4000\n[link]\ngbs_per_direction = 900\n'
    )
    part = find(f"4x{file}").accelerator
    assert part.id == "mine"
    assert part.figure("memory_bytes") == 160e9
    assert part.bandwidth_bytes_per_s == 3350e9
    assert part.peak("fp4") == 4e15
    assert part.link is not None
    assert part.link.bandwidth_bytes_per_s == 900e9
    assert "price_usd_per_h" not in part.figures


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("mem_gb = -1", "mem_gb must be a positive number"),
        ("mem_gb = true", "mem_gb must be a positive number"),
        ("memory = 3", "not understood: memory"),
        ("node_size = 1.5", "node_size must be a whole number"),
        ('year = "new"', "year must be a whole number"),
        ("[link]\nspeed = 3", "not understood: link.speed"),
        ("link = 3", "link must be a table"),
        ("[weight_memory]\ngb = 3", "weight_memory.gbs must be a positive number"),
        ('base = "h1000"', "base = 'h1000' is not in the catalog"),
        ("mem_gb = ", "not a TOML file"),
    ],
)
def test_a_wrong_user_file_is_refused(tmp_path: Path, text: str, complaint: str) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(text)
    with pytest.raises(InputError, match=complaint):
        read_toml(file)


def test_a_missing_user_file_is_refused() -> None:
    with pytest.raises(InputError, match="cannot be read"):
        find("nowhere.toml")


def test_this_machine_is_as_it_was_probed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from membound.hardware import probe

    roofs = probe.Roofs("a processor", 2, "portable", ((1 << 25, 50e9), (1 << 28, 40e9)), {"fp32": 5e11}, 0.0)
    monkeypatch.setattr(probe, "cached", lambda threads: roofs)
    part = find("this").accelerator
    assert (part.name, part.bandwidth_bytes_per_s, part.native_rate("bf16")) == ("a processor", 40e9, "fp32")
    assert part.figure("memory_bytes") > 0
    halfway = this_machine((1 << 25) + ((1 << 28) - (1 << 25)) // 2)
    assert halfway.bandwidth_bytes_per_s == pytest.approx(45e9)
    with pytest.raises(InputError, match="this: network_gbs is not published"):
        find("2xthis").link_between(2)


def test_what_ifs_follow_the_four_research_directions() -> None:
    flash = what_ifs()["flash-b200"]
    assert flash.weight_memory is not None
    assert flash.weight_memory.capacity_bytes == 4 * 512e9
    assert flash.weight_bandwidth_bytes_per_s == 4 * 1638e9
    assert flash.bandwidth_bytes_per_s == find("b200-sxm").accelerator.bandwidth_bytes_per_s / 2
    h100 = find("h100-sxm").accelerator
    assert find("near-memory-h100").accelerator.bandwidth_bytes_per_s > 2 * h100.bandwidth_bytes_per_s
    assert find("stacked-h100").accelerator.bandwidth_bytes_per_s > 2 * h100.bandwidth_bytes_per_s
    assert (
        find("8xlow-latency-h100").link_between(8).latency_s
        < find("8xh100-sxm").link_between(8).latency_s / 5
    )
    assert all(part.notes and part.sources for part in what_ifs().values())
