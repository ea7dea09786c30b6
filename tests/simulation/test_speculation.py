"""Speculation: tokens as theory says, rows that are counted, nothing lost."""

import pytest

from membound.costs.deployment import deployment
from membound.costs.folded_plain import fold
from membound.simulation.simulate import simulate
from membound.simulation.speculation import DraftedCost, Speculation, prediction_head
from membound.workloads.arrivals import ClosedLoop, open_loop
from membound.workloads.lengths import Fixed, LogNormal

LLAMA = deployment("Llama-3.1-8B", "h100-sxm")


@pytest.mark.parametrize(("drafts", "chance"), [(1, 0.5), (3, 0.8), (5, 1.0), (4, 0.0)])
def test_tokens_per_step(drafts: int, chance: float) -> None:
    speculation = Speculation(drafts, (chance,))
    expected = drafts + 1 if chance == 1 else (1 - chance ** (drafts + 1)) / (1 - chance)
    assert speculation.tokens_per_step == pytest.approx(expected)
    found = simulate(LLAMA, ClosedLoop(4, Fixed(64, 2000), 8), speculation=speculation)
    assert found.completed == 8
    verified = sum(watch.decoded_tokens for watch in found.watches)
    events = sum(sum(watch.gaps.values()) for watch in found.watches)
    assert verified == 8 * 1999
    assert verified / events == pytest.approx(expected, rel=0.02)


def test_chances_by_position() -> None:
    assert Speculation(3, (0.8, 0.5, 0.25)).tokens_per_step == pytest.approx(1 + 0.8 + 0.4 + 0.1)
    assert Speculation(3, (0.8, 0.5)).tokens_per_step == pytest.approx(1 + 0.8 + 0.4 + 0.2)


def test_guesses_that_are_free_and_right_are_a_gain_but_wrong_ones_cost_rows() -> None:
    load = open_loop(2, LogNormal(300, 200), 60)
    plain, right, wrong = (
        simulate(LLAMA, load, speculation=speculation)
        for speculation in (None, Speculation(4, (0.9,)), Speculation(4, (0.0,)))
    )
    assert right.tpot_s.mean() < 0.4 * plain.tpot_s.mean()
    assert wrong.tpot_s.mean() > plain.tpot_s.mean()


def test_a_drafter_takes_its_time_and_its_memory() -> None:
    load = ClosedLoop(4, Fixed(200, 200), 16)
    drafter = deployment("Llama-3.2-1B-Instruct", "h100-sxm", engine="none")
    free = simulate(LLAMA, load, speculation=Speculation(3, (0.7,)))
    drafted = simulate(LLAMA, load, speculation=Speculation(3, (0.7,), drafter))
    head = simulate(LLAMA, load, speculation=Speculation(3, (0.7,), prediction_head(LLAMA)))
    assert free.tpot_s.mean() < head.tpot_s.mean() < drafted.tpot_s.mean()
    assert drafted.kv_tokens < head.kv_tokens < free.kv_tokens
    cost = fold(LLAMA.cost)
    small = fold(drafter.cost)
    verified = [(4, 1000, 4), (4, 500, 4)]
    apart = cost.seconds(0, {None: 0}, verified) + 3 * small.seconds(2, {None: 1500})
    assert DraftedCost(cost, small).seconds(0, {None: 0}, verified) == pytest.approx(apart)
