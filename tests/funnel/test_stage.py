"""The parts and the wrappers, with small real stages."""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import pytest

from funnel.errors import BadQuery, Late, Unavailable
from funnel.stage import Chain, Cut, Deadline, Fallback, Hydrate, Observed, Retrieve, Score, Select
from funnel.types import Candidates, Query


def candidates(n: int) -> Candidates:
    return Candidates(np.arange(n, dtype=np.int32), np.linspace(1, 0, n).astype(np.float32))


@dataclass(frozen=True)
class Fixed:
    n: int
    wait: float = 0.0
    error: Exception | None = None

    def retrieve(self, query: Query) -> Candidates:
        time.sleep(self.wait)
        if self.error:
            raise self.error
        return candidates(self.n)

    def run(self, query: Query, candidates_: Candidates) -> Candidates:
        return self.retrieve(query)


class Longest:
    """Keeps the longest list: enough of a fusion for these tests."""

    def __call__(self, query: Query, found: dict[str, Candidates], keep: int) -> Candidates:
        return max(found.values(), key=len).top(keep)


class RowScore:
    def score(self, query: Query, found: Candidates) -> np.ndarray:
        return found.rows.astype(np.float32)

    def hydrate(self, query: Query, rows: np.ndarray) -> dict[str, np.ndarray]:
        return {"double": rows * 2}

    def select(self, query: Query, found: Candidates) -> np.ndarray:
        return np.flatnonzero(found.rows % 2 == 0)


def test_a_chain_scores_hydrates_and_selects() -> None:
    part = RowScore()
    chain = Chain([Hydrate([part]), Score(part, 6, "rank"), Select([part])])
    page = chain.run(Query(limit=2), candidates(10))
    assert page.rows.tolist() == [8, 6]
    assert page.columns["double"].tolist() == [16, 12]
    assert page.columns["rank"].tolist() == [8.0, 6.0]


def test_a_broken_channel_costs_its_own_candidates_only() -> None:
    with ThreadPoolExecutor(3) as pool:
        sources = {
            "good": Fixed(5),
            "down": Fixed(0, error=Unavailable("no index")),
            "bug": Fixed(0, error=RuntimeError("oops")),
        }
        found = Retrieve(sources, Longest(), 3, pool).run(Query(), Candidates.empty())
    assert found.rows.tolist() == [0, 1, 2]
    faults = {step.name: step.fault for step in found.steps}
    assert faults == {
        "recall.good": "",
        "recall.down": "no index",
        "recall.bug": "failed: RuntimeError",
    }


def test_a_late_channel_is_left_out() -> None:
    with ThreadPoolExecutor(2) as pool:
        sources = {"fast": Fixed(2), "slow": Fixed(9, wait=0.4)}
        query = Query(deadline=time.monotonic() + 0.1)
        found = Retrieve(sources, Longest(), 10, pool).run(query, Candidates.empty())
    assert len(found) == 2
    assert [step.fault for step in found.steps] == ["", "late"]


def test_the_callers_fault_passes_every_wrapper() -> None:
    with ThreadPoolExecutor(2) as pool:
        stage = Fallback(Deadline(Fixed(1, error=BadQuery("no")), 1.0, pool), Cut(3), "recall")
        with pytest.raises(BadQuery):
            stage.run(Query(), candidates(3))
        sources = {"a": Fixed(1, error=BadQuery("no")), "b": Fixed(1)}
        with pytest.raises(BadQuery):
            Retrieve(sources, Longest(), 3, pool).run(Query(), Candidates.empty())


def test_a_late_stage_is_late_and_its_fallback_says_so() -> None:
    with ThreadPoolExecutor(1) as pool:
        late = Deadline(Fixed(5, wait=0.3), 0.05, pool)
        with pytest.raises(Late, match="50 ms"):
            late.run(Query(), candidates(9))
        kept = Fallback(late, Cut(4), "rank").run(Query(), candidates(9))
    assert len(kept) == 4
    assert kept.faults[0].startswith("rank: no answer within")


def test_a_deadline_shrinks_to_what_the_query_has_left() -> None:
    seen: list[float] = []

    @dataclass(frozen=True)
    class Look:
        def run(self, query: Query, found: Candidates) -> Candidates:
            seen.append(query.deadline - time.monotonic())
            return found

    with ThreadPoolExecutor(1) as pool:
        stage = Deadline(Look(), 10.0, pool)
        stage.run(replace(Query(), deadline=time.monotonic() + 0.5), candidates(1))
        stage.run(Query(), candidates(1))
        with pytest.raises(Late, match="no time left"):
            stage.run(replace(Query(), deadline=time.monotonic() - 1), candidates(1))
    assert seen[0] <= 0.5 < seen[1] <= 10.0


def test_a_bug_in_a_stage_degrades_the_page_and_does_not_lose_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    kept = Fallback(Fixed(1, error=ZeroDivisionError()), Cut(2), "rank").run(Query(), candidates(5))
    assert len(kept) == 2
    assert kept.faults == ("rank: failed: ZeroDivisionError",)
    assert "stage rank failed" in caplog.text


def test_observed_counts_what_came_and_what_was_kept() -> None:
    told = []
    stage = Observed(Cut(2), "cut", lambda query, step: told.append(step))
    (step,) = stage.run(Query(), candidates(5)).steps
    assert (step.name, step.seen, step.kept) == ("cut", 5, 2)
    assert told == [step]
