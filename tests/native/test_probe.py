"""The loops that measure the roofs."""

import pytest

from membound import _core


def test_reads_at_a_possible_rate() -> None:
    rate = _core.probe_read(1 << 20, threads=1, seconds=0.05)
    assert 1e8 < rate < 1e13


def test_multiplies_in_what_the_instruction_set_has() -> None:
    rates = {kind: _core.probe_flops(kind, threads=1, seconds=0.05) for kind in ("fp32", "bf16", "int8")}
    assert rates["fp32"] is not None
    if _core.isa() in ("avx512", "amx"):
        assert rates["int8"] is not None
        assert rates["int8"] > rates["fp32"]
        assert rates["bf16"] is not None


@pytest.mark.parametrize("isa", _core.isas())
def test_the_environment_chooses_the_instruction_set(isa: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMBOUND_ISA", isa)
    assert _core.isa() == isa


def test_an_unknown_instruction_set_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMBOUND_ISA", "sse9")
    with pytest.raises(ValueError, match="sse9 is not available on this machine; it has portable"):
        _core.isa()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: _core.probe_flops("fp7"), "no probe for fp7"),
        (lambda: _core.probe_flops("fp32", seconds=0), "seconds"),
        (lambda: _core.probe_flops("fp32", threads=-1), "threads must be between 1 and 1024"),
        (lambda: _core.probe_read(10), "at least 65536 bytes"),
    ],
)
def test_bad_arguments_are_refused(call: object, message: str) -> None:
    assert callable(call)
    with pytest.raises(ValueError, match=message):
        call()
