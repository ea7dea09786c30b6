"""The commands that cost: stable keys, answers in words and pictures, one line for what cannot be."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from membound import cli
from membound.hardware import probe

LLAMA = ("roofline", "meta-llama/Llama-3.1-70B", "--on", "h100-sxm")


def shown(*words: str) -> str:
    result = CliRunner().invoke(cli.app, list(words), catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout


def answer(*words: str) -> Any:
    return json.loads(shown(*words, "--json"))


def refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: str, code: int = 2
) -> str:
    monkeypatch.setattr("sys.argv", ["membound", *words])
    with pytest.raises(SystemExit) as end:
        cli.main()
    said = capsys.readouterr()
    assert end.value.code == code
    assert said.out == ""
    assert said.err.count("\n") == 1
    return said.err


def test_keys_of_roofline() -> None:
    found = answer(*LLAMA, "--tp", "2", "--batch", "8", "--context", "4096")
    assert found["parameters"] == 70_553_706_496
    assert found["active_parameters"] == 69_503_033_344
    assert found["weight_bytes"] == 141_107_412_992
    assert found["kv_bytes_per_token"] == 327_680
    assert found["ridge_flops_per_byte"] == pytest.approx(295.3, abs=0.05)
    assert found["fits"] is True
    assert found["max_kv_tokens"] == (80_000_000_000 - found["per_rank"]["weight_bytes"]) // 163_840
    for phase in ("prefill", "decode"):
        assert set(found[phase]) >= {"flops", "bytes", "intensity", "seconds", "bound"}
        assert found[phase]["seconds"] >= found[phase]["limit_seconds"]
    operators = found["operators"]
    assert all(set(op) >= {"name", "flops", "bytes", "seconds", "bound", "source"} for op in operators)
    assert sum(op["seconds"] for op in operators) == pytest.approx(found["decode"]["seconds"])


def test_a_model_that_does_not_fit_is_an_answer() -> None:
    found = answer(*LLAMA)
    assert (found["fits"], found["max_kv_tokens"]) == (False, 0)
    unknown = answer("roofline", "Llama-3.1-8B", "--on", "epyc9755")
    assert (unknown["fits"], unknown["max_kv_tokens"]) == (None, None)


def test_a_counted_node_is_used_whole() -> None:
    assert answer("roofline", "Llama-3.1-70B", "--on", "8xh100-sxm")["parallel"]["tp"] == 8
    part = answer("roofline", "Llama-3.1-70B", "--on", "8xh100-sxm", "--tp", "2")
    assert "2 of 8 accelerators are used" in part["notes"]


def test_names_of_one_entry() -> None:
    names = ("meta-llama/Llama-3.1-70B", "Meta-Llama-3.1-70B", "meta-llama--meta-llama-3.1-70b")
    bytes_read = {answer("roofline", name, "--on", "h200-sxm")["decode"]["bytes"] for name in names}
    assert len(bytes_read) == 1


def test_a_bare_config_and_a_folder(tmp_path: Path) -> None:
    catalog = Path(cli.__file__).parent / "models" / "catalog"
    (tmp_path / "config.json").write_text((catalog / "microsoft--phi-4.json").read_text())
    for model in (tmp_path, tmp_path / "config.json"):
        assert answer("roofline", str(model), "--on", "h100-sxm")["parameters"] == 14_659_507_200


def test_this_machine_runs_this_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    roofs = probe.Roofs("a processor", 2, "portable", ((1 << 25, 50e9), (1 << 30, 40e9)), {"fp32": 5e11}, 0.0)
    monkeypatch.setattr(probe, "cached", lambda threads: roofs)
    assert answer("roofline", "Qwen2.5-0.5B-Instruct", "--on", "this")["engine"] == "membound"
    assert answer("roofline", "Qwen2.5-0.5B-Instruct", "--on", "l4")["engine"] == "vllm"


def test_formats_that_run_weight_only_are_said() -> None:
    found = answer(*LLAMA, "--weights", "fp4")
    assert found["notes"] == ["fp4 weights run weight-only: stored fp4, multiplied at fp8"]
    assert found["fits"] is True
    assert "note: fp4 weights run weight-only" in shown(*LLAMA, "--weights", "fp4")


def test_the_cache_is_16_bit_unless_asked() -> None:
    checkpoint = ("roofline", "nvidia/Llama-3.1-70B-Instruct-FP8", "--on", "h100-sxm")
    plain, asked = answer(*checkpoint), answer(*checkpoint, "--kv", "fp8")
    assert plain["notes"] == ["the checkpoint is prepared for a KV cache in fp8: --kv"]
    assert (plain["kv_bytes_per_token"], asked["kv_bytes_per_token"]) == (327_680, 163_840)
    assert 72e9 < plain["weight_bytes"] < 73e9


def test_the_readable_form_tells_the_story() -> None:
    text = shown(*LLAMA, "--tp", "2", "--batch", "8")
    for word in (
        "320.0 KiB per token",
        "fits, with room for",
        "295.3 FLOP/byte",
        "ffn_gate_up",
        "all-reduce",
    ):
        assert word in text
    assert "P prefill" in text


def test_machines_side_by_side() -> None:
    parts = "h100-sxm,near-memory-h100,stacked-h100,low-latency-h100"
    found = answer("roofline", "Llama-3.1-70B", "--on", parts, "--tp", "8", "--ep", "1")["compared"]
    plain, near, stacked, quick = (one["decode"]["seconds"] for one in found)
    assert near < stacked < plain
    assert quick < plain
    assert "near-memory-h100" in shown("roofline", "Llama-3.1-8B", "--on", parts)


@pytest.mark.parametrize("command", [LLAMA, ("wall",)])
def test_pictures_are_written(command: tuple[str, ...], tmp_path: Path) -> None:
    png, html = tmp_path / "a.png", tmp_path / "a.html"
    shown(*command, "--png", str(png), "--html", str(html))
    assert png.read_bytes().startswith(b"\x89PNG")
    assert "plotly" in html.read_text()


def test_keys_of_wall() -> None:
    found = answer("wall")
    assert all({"from", "to", "compute_growth", "bandwidth_growth"} <= set(pair) for pair in found["pairs"])
    assert found["fit"]["compute_growth"] == pytest.approx(54.7, abs=0.05)
    assert found["ridge_by_year"][-1]["device"] == "Rubin (announced)"
    chosen = answer("wall", "--from", "V100", "--to", "B200 SXM", "--kind", "16-bit")["pairs"]
    assert [pair["compute_growth"] for pair in chosen] == [18.0]
    assert "depends on the pair" in shown("wall")


def test_catalogs_are_listed() -> None:
    models = {row["name"]: row for row in answer("models")["models"]}
    assert len(models) == 46
    assert models["openai/gpt-oss-120b"]["weights"] == "mxfp4"
    parts = {row["id"]: row for row in answer("hardware")["hardware"]}
    assert parts["epyc9654"]["memory_bytes"] is None
    assert {"h100-sxm", "flash-b200"} <= set(parts)
    assert "whitepaper" in shown("hardware", "h100-sxm")
    assert "gpt-oss-20b" in shown("models")


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("roofline", "Llama-9-70B", "--on", "h100-sxm"), "no model 'Llama-9-70B': did you mean"),
        (("roofline", "Llama-3.1-70B", "--on", "h1000"), "unknown hardware 'h1000': did you mean"),
        (("roofline", "Llama-3.1-70B", "--on", "m5max"), "m5max: no bf16 rate"),
        (("roofline", "Llama-3.1-70B", "--on", "inferentia2", "--tp", "2"), "link_gbs_per_direction is not"),
        ((*LLAMA, "--tp", "3"), "64 cannot be divided among 3 ranks"),
        ((*LLAMA, "--batch", "0"), "--batch must be at least 1"),
        ((*LLAMA, "--weights", "fp3"), "--weights fp3: one of"),
        ((*LLAMA, "--activations", "int3"), "--activations int3: one of"),
        ((*LLAMA, "--engine", "ollama"), "--engine ollama: one of"),
        (
            ("roofline", "Llama-3.1-70B", "--on", "2xh100-sxm", "--tp", "4"),
            "the layout needs 4",
        ),
        (("wall", "--from", "Voodoo"), "'Voodoo' names 0 parts"),
        (("wall", "--kind", "fp3"), "unknown kind of compute 'fp3'"),
        (("roofline", "/", "--on", "h100-sxm"), "the folder has no config.json"),
    ],
)
def test_what_cannot_be_is_one_line(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
    complaint: str,
) -> None:
    assert complaint in refused(capsys, monkeypatch, *words)


@pytest.mark.parametrize("command", [LLAMA, ("wall",)])
def test_a_picture_that_cannot_be_written_is_one_line(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    command: tuple[str, ...],
) -> None:
    place = tmp_path / "nowhere" / "a.png"
    said = refused(capsys, monkeypatch, *command, "--png", str(place), code=1)
    assert said == f"membound: {place}: No such file or directory\n"
