"""The commands as a user types them: what they print, and one line where they refuse."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from membound import _core, cli
from membound.hardware import probe
from tests.real_models import real_model


@pytest.fixture(autouse=True)
def quick_probes(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Shorter loops: these tests read what is printed, not how quick the machine is. And not for keeps."""
    monkeypatch.setattr(probe, "cache_folder", tmp_path_factory.getbasetemp)
    monkeypatch.setattr(probe, "WORKING_SETS", (16 * probe.MIB, 64 * probe.MIB))


def membound(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str
) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of one command."""
    monkeypatch.setattr(sys, "argv", ["membound", *arguments])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    out, err = capsys.readouterr()
    return int(stopped.value.code or 0), out, err


Answer = tuple[int, str, str]


class Terminal:
    """Runs commands within a test."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.monkeypatch, self.capsys = monkeypatch, capsys

    def __call__(self, *arguments: str) -> Answer:
        return membound(self.monkeypatch, self.capsys, *arguments)

    def json(self, *arguments: str) -> dict[str, Any]:
        code, out, err = self(*arguments, "--json")
        assert (code, err) == (0, "")
        answer: dict[str, Any] = json.loads(out)
        return answer

    def refuses(self, *arguments: str, code: int = 2) -> str:
        """The one line on standard error; nothing on standard output."""
        found, out, err = self(*arguments)
        assert (found, out) == (code, "")
        assert err.startswith("membound: ")
        assert err.count("\n") == 1
        assert "Traceback" not in err
        return err


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Terminal:
    return Terminal(monkeypatch, capsys)


@pytest.fixture(scope="module")
def smollm2() -> str:
    return str(real_model("smollm2"))


def test_run_says_what_it_generated_and_where_it_stands(terminal: Terminal, smollm2: str) -> None:
    answer = terminal.json("run", smollm2, "The capital of France is", "--raw", "--max-tokens", "8")
    assert "Paris" in answer["text"]
    assert answer["prompt_tokens"] == 5
    assert len(answer["token_ids"]) == 8
    assert answer["weight_bytes_per_step"] > 90e6
    assert answer["kv_bytes_per_token"] == 2 * 30 * 3 * 64 * 2
    assert answer["ttft_s"] > 0
    assert answer["limit_tpot_s"] > 0
    assert answer["predicted_tpot_s"] > 0
    assert answer["share_of_limit"] == pytest.approx(answer["limit_tpot_s"] / answer["tpot_s"])


def test_run_shows_the_table_after_the_text(terminal: Terminal, smollm2: str) -> None:
    code, out, _ = terminal("run", smollm2, "Say hello.", "--max-tokens", "4")
    assert code == 0
    for row in ("TTFT", "TPOT measured", "TPOT predicted", "TPOT limit", "share of the limit"):
        assert row in out


def test_the_same_seed_gives_the_same_text(terminal: Terminal, smollm2: str) -> None:
    sampled = (
        "run",
        smollm2,
        "A story:",
        "--raw",
        "--max-tokens",
        "12",
        "--temperature",
        "0.9",
        "--top-p",
        "0.95",
    )
    first, again = (terminal.json(*sampled, "--seed", "3") for _ in range(2))
    assert first["token_ids"] == again["token_ids"]
    assert terminal.json(*sampled, "--seed", "4")["token_ids"] != first["token_ids"]


def test_a_stop_string_ends_the_text_before_it(terminal: Terminal, smollm2: str) -> None:
    whole = terminal.json("run", smollm2, "1, 2, 3, 4,", "--raw", "--max-tokens", "12")["text"]
    stopped = terminal.json("run", smollm2, "1, 2, 3, 4,", "--raw", "--max-tokens", "12", "--stop", "7")
    assert "7" in whole
    assert stopped["text"] == whole[: whole.index("7")]
    assert stopped["finish_reason"] == "stop"


def test_speed_has_a_row_for_each_size(terminal: Terminal, smollm2: str) -> None:
    answer = terminal.json("speed", smollm2, "--prefill", "16,64", "--batch", "1,3")
    assert [row["tokens"] for row in answer["prefill"]] == [16, 64]
    assert [row["batch"] for row in answer["decode"]] == [1, 3]
    for row in answer["prefill"] + answer["decode"]:
        assert row["tok_per_s"] > 0
        assert row["share_of_limit"] > 0
    assert answer["load_s"] > 0
    assert answer["resident_bytes"] > 90e6


def test_a_batch_decodes_together_however_short_the_timed_prompts(terminal: Terminal, smollm2: str) -> None:
    def step_bytes(prefill: str) -> float:
        sizes = ("--prefill", prefill, "--batch", "3", "--max-tokens", "4")
        (row,) = terminal.json("speed", smollm2, *sizes)["decode"]
        return float(row["bytes_per_s"] / row["tok_per_s"])

    assert step_bytes("1") == pytest.approx(step_bytes("128"))


def test_speed_takes_each_step_apart(terminal: Terminal, smollm2: str) -> None:
    sizes = ("--prefill", "16", "--batch", "1,2", "--max-tokens", "4")
    explained = terminal.json("speed", smollm2, *sizes, "--explain")["explain"]
    assert [step["step"] for step in explained] == ["prefill 16", "decode, batch 1", "decode, batch 2"]
    for step in explained:
        assert step["seconds"] == pytest.approx(sum(part["seconds"] for part in step["parts"]))
        assert {part["side"] for part in step["parts"]} == {"kernels", "waiting", "python"}
    code, out, _ = terminal("speed", smollm2, *sizes, "--explain")
    assert code == 0
    assert "waiting at barriers" in out


def test_demo_places_each_phase_and_draws_it(terminal: Terminal, smollm2: str, tmp_path: Path) -> None:
    told = terminal.json("demo", "--output", str(tmp_path))
    assert told["single"]["text"]
    assert told["concurrent"]["requests"] == 16
    assert 0 < told["concurrent"]["limit_tpot_s"] < told["concurrent"]["tpot_s"]["p50"]
    assert [phase["label"] for phase in told["phases"]] == [
        "prefill, 16 requests", "decode, 1 request", "decode, 16 requests",
    ]  # fmt: skip
    for phase in told["phases"]:
        assert phase["weight_bytes_per_step"] >= 96_576_768
        assert phase["intensity"] == pytest.approx(phase["flops_per_s"] / phase["bytes_per_s"])
    assert {path.name for path in tmp_path.iterdir()} == {"roofline.png", "roofline.html"}


def test_probe_tells_every_roof(terminal: Terminal, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(probe, "cache_folder", lambda: tmp_path)
    monkeypatch.setattr(_core, "default_threads", lambda: 2)
    answer = terminal.json("probe", "--threads", "1")
    assert answer["cores"] == 1
    assert probe.cached(1) is not None
    assert probe.cached() is None, "what one thread can do is not what the machine can"
    assert answer["read_bandwidth_bytes_per_s"] > 1e8
    assert answer["peak_flops_per_s"]["fp32"] > 1e8
    for precision, ridge in answer["ridge_flops_per_byte"].items():
        peak = answer["peak_flops_per_s"][precision]
        assert ridge == pytest.approx(peak / answer["read_bandwidth_bytes_per_s"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("run",), "MODEL"),
        (("run", "smollm2", "x", "--nonsense"), "--nonsense"),
        (("nonsense",), "nonsense"),
        (("run", "smollm2", "x", "--temperature", "-1"), "temperature"),
        (("run", "smollm2", "x", "--max-tokens", "0"), "--max-tokens"),
        (("speed", "smollm2", "--batch", "some"), "--batch"),
        (("speed", "smollm2", "--kv-memory", "lots"), "--kv-memory"),
        (("run", "no-such-model", "x"), "no-such-model"),
        (("run", "smollm2", "x", "--threads", "99999"), "threads = 99999: this process may use"),
        (("run", "/no/such/file.gguf", "x"), "/no/such/file.gguf"),
    ],
)
def test_bad_usage_is_one_line(terminal: Terminal, arguments: tuple[str, ...], said: str) -> None:
    assert said in terminal.refuses(*arguments)


def test_a_damaged_file_is_one_line(terminal: Terminal, smollm2: str, tmp_path: Path) -> None:
    whole = Path(smollm2).read_bytes()
    for length in (0, 3, 100, 100_000, len(whole) // 2):
        cut = tmp_path / f"{length}.gguf"
        cut.write_bytes(whole[:length])
        assert cut.name in terminal.refuses("run", str(cut), "x")
    other = tmp_path / "other.gguf"
    other.write_bytes(b"GIF89a" + bytes(1000))
    assert "GGUF" in terminal.refuses("run", str(other), "x")


def test_what_never_fits_is_one_line(terminal: Terminal, smollm2: str) -> None:
    long = "word " * 200
    assert "context" in terminal.refuses("run", smollm2, long, "--context", "64", "--max-tokens", "8")
    assert "context" in terminal.refuses("run", smollm2, "x", "--context", "8192", "--kv-memory", "1MB")
    assert "context" in terminal.refuses("run", smollm2, "x", "--context", "999999")
    assert "KV" in terminal.refuses("run", smollm2, "x", "--kv-memory", "100")


def test_an_unknown_instruction_set_is_one_line(
    terminal: Terminal, smollm2: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEMBOUND_ISA", "avx1024")
    assert "avx1024" in terminal.refuses("run", smollm2, "x")


def test_a_bug_is_one_line_too(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(**_: object) -> None:
        raise ZeroDivisionError("oh")

    monkeypatch.setattr("membound.hardware.probe.peak_flops", breaks)
    assert "ZeroDivisionError" in terminal.refuses("probe", code=1)
