"""The search for the fewest in float, on drops that are known."""

from __future__ import annotations

import pytest

from deploy.profiling.statistics import Estimate
from deploy.search.sensitivity import rank
from deploy.search.strategy import Candidate, Kept, choose, find_fewest, pareto_front

NAMES = [f"m{i:02}" for i in range(20)]


def estimate(value: float) -> Estimate:
    return Estimate(value, value, value)


def candidate(kept: Kept, drop: float, ratio: float = 1.0) -> Candidate:
    return Candidate(kept, 0.0, estimate(drop), estimate(1.0), estimate(ratio))


class Machine:
    """Measures the sum of what the matmuls still quantized cost; stops after ``most``."""

    def __init__(self, costs: dict[str, float], most: int = 1000) -> None:
        self.costs, self.most = costs, most
        self.measured: list[Candidate] = []

    def measure(self, kept: Kept) -> Candidate | None:
        if len(self.measured) == self.most:
            return None
        lost = sum(cost for name, cost in self.costs.items() if name not in kept)
        self.measured.append(candidate(kept, lost))
        return self.measured[-1]


@pytest.mark.parametrize("costly", [1, 2, 3, 5, 7, 19])
def test_the_sensitive_prefix_is_found(costly: int) -> None:
    machine = Machine({name: 1.0 for name in NAMES[:costly]})
    find_fewest(NAMES, machine.measure, 0.5)
    best = choose(machine.measured, 0.5)
    assert best.kept == tuple(NAMES[:costly])
    sets = [frozenset(c.kept) for c in machine.measured]
    assert len(sets) == len(set(sets)), "nothing is measured twice"
    assert len(sets) <= 11 + costly


def test_members_that_are_not_needed_go_back_to_int8() -> None:
    machine = Machine({"m00": 1.0, "m05": 1.0})
    find_fewest(NAMES, machine.measure, 0.5)
    assert choose(machine.measured, 0.5).kept == ("m00", "m05")


def test_a_target_out_of_reach_takes_the_least_drop() -> None:
    machine = Machine({name: 1.0 + i for i, name in enumerate(NAMES)})
    find_fewest(NAMES, machine.measure, 0.5)
    best = choose(machine.measured, 0.5)
    assert best.drop.value == 20.0 and len(best.kept) == 19


def test_no_time_ends_the_search_where_it_is() -> None:
    machine = Machine({name: 1.0 for name in NAMES[:5]}, most=2)
    find_fewest(NAMES, machine.measure, 0.5)
    assert [len(c.kept) for c in machine.measured] == [1, 2]
    assert len(choose(machine.measured, 0.5).kept) == 2


def test_one_matmul_leaves_nothing_to_search() -> None:
    machine = Machine({"m00": 1.0})
    find_fewest(["m00"], machine.measure, 0.5)
    assert machine.measured == []


def test_fewest_in_float_wins_over_least_drop() -> None:
    few, many = candidate(("a",), 0.4), candidate(("a", "b"), 0.1)
    assert choose([many, few], 0.5) is few
    assert choose([many, few], 0.2) is many


def test_the_front_holds_what_nothing_beats() -> None:
    fast, middle, exact = (
        candidate((), 2.0, 3.0), candidate(("a",), 1.0, 2.0), candidate(("a", "b"), 0.1, 1.0),
    )  # fmt: skip
    slower = candidate(("b",), 1.0, 1.5)
    worse = candidate(("c",), 1.5, 2.0)
    assert pareto_front([exact, worse, fast, slower, middle]) == [fast, middle, exact]


def test_ties_go_to_the_drop_alone_and_then_to_what_is_cheap_in_float() -> None:
    macs = {"dear": 100, "cheap": 1, "alone": 100, "first": 100}
    recovered = {name: estimate(0.0) for name in macs} | {"first": estimate(0.1)}
    alone = {name: estimate(0.0) for name in macs} | {"alone": estimate(0.2)}
    assert rank(macs, alone, recovered) == ["first", "alone", "cheap", "dear"]
    assert rank(macs, {}, recovered) == ["first", "cheap", "dear", "alone"]
