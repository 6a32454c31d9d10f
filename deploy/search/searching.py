"""The search of ``deploy build --target-drop``: rank, measure, choose, and tell."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from calib.inputs import GraphInput, Request
from calib.placement import Placement, Site
from deploy.engines import ENGINES
from deploy.manifest import CandidateEntry, ModelEntry, SearchEntry
from deploy.profiling.evaluation import EvaluationSet, read_evaluation
from deploy.profiling.scoring import DROP_UNIT, recovery
from deploy.profiling.statistics import Estimate
from deploy.search.candidates import Evaluator, Quantized, open_simulated
from deploy.search.measuring import Bench, Setting, open_bench
from deploy.search.planning import SearchPlan
from deploy.search.sensitivity import interval_from, rank
from deploy.search.strategy import Candidate, Kept, choose, find_fewest, pareto_front
from deploy.search.telling import candidate_line
from deploy.sessions import Engine
from trueint8.progress import Progress


@dataclass(frozen=True, slots=True)
class Subject:
    """What is searched.

    Attributes:
        graphs: The Q/DQ graph with everything quantized, and its float graph.
        model: Decides the metric.
        inputs: Of the graph.
        tokenizer: Its folder, if the model has one.
        amount: Batch size, length and seed of calibration, which evaluation takes over.
    """

    graphs: Quantized
    model: ModelEntry
    inputs: Sequence[GraphInput]
    tokenizer: Path | None
    amount: Request


def search_placement(
    subject: Subject, plan: SearchPlan, scratch: Path, progress: Progress
) -> SearchEntry:
    """Find the fewest matmuls in float that hold the plan's drop.

    The ranking is SIMULATED: what leaving each matmul in float recovers. Every candidate is
    MEASURED on the plan's engine. After the time budget nothing is begun; the first candidate,
    with everything quantized, is measured whatever the budget.

    Raises:
        DataError: If the evaluation data does not fit the model.
        BuildError: If the engine refuses a candidate.
        RunError: If a candidate fails to run.
    """
    began = time.monotonic()
    ended = False

    def over() -> bool:
        nonlocal ended
        ended = ended or time.monotonic() - began > plan.time_budget_s
        return ended

    with progress.step(f"read {plan.data.name}"):
        data = read_evaluation(
            plan.data,
            replace(subject.amount, samples=plan.samples),
            subject.model,
            subject.inputs,
            graph=subject.graphs.float_graph,
            tokenizer=subject.tokenizer,
        )
    engine: Engine = ENGINES.load(plan.engine)
    candidates: list[Candidate] = []
    setting = Setting(engine, subject.graphs, subject.inputs, data, scratch, subject.amount.seed)

    def measure(kept: Kept) -> Candidate | None:
        if candidates and over():
            return None
        found = bench.measure(kept)
        candidates.append(found)
        progress.say(candidate_line(found, DROP_UNIT[bench.float_scores.metric]))
        return found

    with open_bench(setting) as bench:
        first = measure(())
        if first is not None and first.drop.value > plan.target_drop:
            evaluator = Evaluator(subject.graphs, data, open_simulated, scratch)
            find_fewest(_ranking(evaluator, over, progress), measure, plan.target_drop)
    return _entry(plan, data, bench, candidates, over=ended, seconds=time.monotonic() - began)


def _ranking(evaluator: Evaluator, over: Callable[[], bool], progress: Progress) -> list[str]:
    """Order matmuls by what each recovers in simulation; those not reached in time come last."""
    macs = evaluator.graphs.macs
    reference, whole = evaluator.float_scores(), evaluator.scores(())
    recovered: dict[str, Estimate] = {}
    with progress.step("rank matmuls", total=len(macs)) as advance:
        for name in macs:
            if over():
                break
            recovered[name] = recovery(reference, whole, evaluator.scores((name,)))
            advance(1)
    ranked = rank({name: macs[name] for name in recovered}, {}, recovered)
    return [*ranked, *(name for name in macs if name not in recovered)]


def _entry(
    plan: SearchPlan,
    data: EvaluationSet,
    bench: Bench,
    candidates: Sequence[Candidate],
    *,
    over: bool,
    seconds: float,
) -> SearchEntry:
    taken = choose(candidates, plan.target_drop)
    front = pareto_front(candidates)
    metric = bench.float_scores.metric
    return SearchEntry(
        target_drop=plan.target_drop,
        held=taken.drop.value <= plan.target_drop,
        ended="time budget" if over else "complete",
        seconds=round(seconds, 1),
        engine=plan.engine,
        metric=metric,
        drop_unit=DROP_UNIT[metric],
        data=plan.data.name,
        sequences=data.count,
        float_value=bench.float_scores.value,
        fastest_float=bench.fastest,
        kept=list(taken.kept),
        candidates=[
            CandidateEntry(
                kept=list(c.kept),
                value=c.value,
                drop=interval_from(c.drop),
                latency_ms=interval_from(c.latency_ms),
                float_ratio=interval_from(c.float_ratio),
                on_front=c in front,
            )
            for c in sorted(candidates, key=lambda c: len(c.kept))
        ],
    )


def with_kept(placement: Placement, kept: Collection[str], target_drop: float) -> Placement:
    """Return a placement with some matmuls in float, and why."""
    reason = f"kept in float by search: target drop {target_drop:g}"
    return Placement(
        [Site(s.matmul, reason) if s.matmul.name in kept else s for s in placement.sites],
        [a for a in placement.attentions if not set(a.matmuls).intersection(kept)],
    )
