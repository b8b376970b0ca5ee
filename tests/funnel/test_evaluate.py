"""Live state as of a moment, and orders measured by hand."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import roc_auc_score

from funnel.cases import Case, held_out_cases
from funnel.catalogue import write_catalogue
from funnel.config import parse
from funnel.errors import BadData
from funnel.evaluate import orders, report, told_apart, told_apart_together
from funnel.generation import Generation, Manifest
from funnel.timeline import Timeline, groups, read_events
from funnel.types import Candidates, Query, Step

CONFIG = parse({"features": {"half_lives": [1.0], "settle_ms": 100, "history": 5}})
CLICK, BUY = (CONFIG.all_actions.index(name) for name in ("click", "purchase"))
DAY = 86_400_000


@pytest.fixture(scope="module")
def generation(tmp_path_factory: pytest.TempPathFactory) -> Generation:
    path = tmp_path_factory.mktemp("g")
    ids = [f"i{n}" for n in range(10)]
    write_catalogue(path / "items", pa.table({"item_id": ids, "title": ids}), [], [], [])
    users = pa.table(
        {
            "user_id": ["ann"],
            "item_rows": pa.array([[7, 8]], pa.list_(pa.int32())),
            "actions": pa.array([[CLICK, BUY]], pa.list_(pa.int8())),
            "times": pa.array([[500, 600]], pa.list_(pa.int64())),
        }
    )
    write_catalogue(path / "users", users, [], [], [], key="user_id")
    (path / "popular").mkdir()
    np.save(path / "popular/rows.npy", np.arange(10, dtype=np.int32))
    np.save(path / "popular/scores.npy", np.ones(10, np.float32))
    config = CONFIG.model_dump(mode="json")
    Manifest("g", until=1000, past=0, actions=CONFIG.all_actions, config=config).write(path)
    return Generation.open(path)


def written(path: Path, rows: list[dict[str, object]]) -> Path:
    blank = {"request_id": "", "scene": "home", "query": None, "event_id": None}
    table = pa.Table.from_pylist([{**blank, **row} for row in rows])
    (path / "events").mkdir()
    pq.write_table(table, path / "events/part.parquet")
    return path / "events"


def event(user: str, item: str, action: str, at: int, **more: object) -> dict[str, object]:
    return {"user_id": user, "item_id": item, "action": action, "timestamp": at, **more}


def test_events_are_ordered_known_and_counted_once(generation: Generation, tmp_path: Path) -> None:
    path = written(
        tmp_path,
        [
            event("ann", "i3", "click", 1300, event_id="b"),
            event("ann", "i1", "click", 1100, event_id="z"),
            event("ann", "i2", "click", 1100, event_id="a"),
            event("ann", "i1", "click", 1100, event_id="z"),
            event("ann", "lost", "click", 1200, event_id="c"),
            event("ann", "i9", "click", 900, event_id="d"),
        ],
    )
    events = read_events(path, generation, since=1000)
    assert events.rows.tolist() == [2, 1, 3]
    with pytest.raises(BadData, match="no events in"):
        read_events(tmp_path / "none", generation)


def test_a_timeline_knows_the_past_and_nothing_else(generation: Generation, tmp_path: Path) -> None:
    path = written(
        tmp_path,
        [
            event("ann", "i1", "impression", 1090),
            event("ann", "i1", "click", 1100),
            event("bob", "i1", "click", 1250),
            event("ann", "i2", "cart", 1300),
        ],
    )
    timeline = Timeline(generation, CONFIG, read_events(path, generation, since=1000))
    timeline.advance(1100)
    assert timeline.history("ann").rows.tolist() == [7, 8]  # a click at 1100 is not before 1100
    timeline.advance(1300)
    assert timeline.history("ann").rows.tolist() == [7, 8, 1]  # impressions are no history
    assert timeline.history("cyd").rows.tolist() == []
    # Counters are as of 1300 - 100 by arrival: ann's click counts, bob's does not yet.
    said = timeline.counters.hydrate(Query(at=1300), np.array([1, 2], np.int32))
    decay = 2 ** (-(1300 - 1100) / DAY)
    np.testing.assert_allclose(said["live.click.1d"], [decay, 0], rtol=1e-6)
    timeline.advance(10**9)
    assert timeline.history("ann").rows.tolist() == [7, 8, 1, 2]


def test_a_case_asks_at_the_request_for_what_the_user_did_from_then_on(
    generation: Generation, tmp_path: Path
) -> None:
    path = written(
        tmp_path,
        [
            event("ann", "i1", "impression", 2000, request_id="r1"),
            event("ann", "i1", "click", 2100, request_id="r1"),
            event("ann", "i8", "click", 2200, request_id="r1"),
            event("ann", "i4", "purchase", 3000, request_id="r0"),
            event("bob", "i5", "impression", 2500, request_id="r2"),
        ],
    )
    events = read_events(path, generation, since=1000)
    cases = [case for _, case in held_out_cases(generation, CONFIG, events, "home", 10)]
    assert len(cases) == 1  # bob did nothing positive
    case = cases[0]
    assert (case.query.at, case.query.history.rows.tolist()) in (
        (2000, [7, 8]),
        (3000, [7, 8, 1, 8]),
    )
    # i8 was bought before: the scene does not show it again, so it is not asked for either.
    assert case.rows.tolist() == ([1, 4] if case.query.at == 2000 else [4])
    assert case.query.excluded.tolist() == [8]


def test_so_many_requests_of_a_user_as_are_asked_for(
    generation: Generation, tmp_path: Path
) -> None:
    asked = {"ann": 5, "bob": 2, "cyd": 1}
    rows = [
        event(user, f"i{n}", "click", 2000 + 100 * n, request_id=f"{user}{n}")
        for user, many in asked.items()
        for n in range(many)
    ]
    events = read_events(written(tmp_path, rows), generation, since=1000)

    def drawn(most: int, per_user: int) -> list[tuple[str, int]]:
        found = held_out_cases(generation, CONFIG, events, "home", most, per_user)
        return [(case.query.user_id, case.query.at) for _, case in found]

    for per_user in (1, 3, 9):
        found = drawn(100, per_user)
        assert len(set(found)) == len(found)
        assert found == sorted(found, key=lambda one: one[1])
        assert Counter(user for user, _ in found) == {
            user: min(many, per_user) for user, many in asked.items()
        }
    assert len(drawn(4, 3)) == 4
    assert set(drawn(100, 1)) <= set(drawn(100, 3)) <= set(drawn(100, 9))


def test_orders_list_a_stage_and_then_what_it_dropped() -> None:
    def left(rows: list[int], **columns: list[float]) -> Candidates:
        found = {f"recall.{k}": np.array(v, np.float32) for k, v in columns.items()}
        scores = np.arange(len(rows), 0, -1).astype(np.float32)
        return Candidates(np.array(rows, np.int32), scores, found, (Step("x", 0, 0, 0.0),))

    lists = orders(
        {
            "recall": left([1, 2, 3, 4], bm25=[0.1, np.nan, 0.9, 0.5]),
            "prerank": left([3, 2]),
            "rank": left([2]),
            "rerank": left([2]),
        }
    )
    assert lists["recall"].tolist() == [1, 2, 3, 4]
    assert lists["prerank"].tolist() == [3, 2, 1, 4]
    assert lists["rank"].tolist() == [2, 3, 1, 4]
    assert lists["page"].tolist() == [2, 3, 1, 4]
    assert lists["recall.bm25"].tolist() == [3, 4, 1]


def test_a_report_measures_by_hand_checkable_numbers(generation: Generation) -> None:
    def left(rows: list[int]) -> Candidates:
        return Candidates(np.array(rows, np.int32), np.ones(len(rows), np.float32))

    case = Case(Query(excluded=np.array([0], np.int32)), np.array([5, 2], np.int32), np.ones(2))
    trail = {
        "recall": left([5, 2, 1]),
        "prerank": left([2, 1]),
        "rank": left([1, 2]),
        "rerank": left([1]),
    }
    found = report(generation, "home", "held-out events", [(case, trail)])
    assert found.survival == {"recall": 1.0, "prerank": 0.5, "rank": 0.5, "rerank": 0.0}
    assert found.orders["recall"]["nDCG@10"].mean == pytest.approx(1.0)
    assert found.orders["page"]["MRR"].mean == pytest.approx(0.5)  # 1, 2, 5
    assert found.orders["page"]["Recall@100"].mean == 1.0
    assert found.orders["recall"]["GAUC"].mean == 1.0
    assert found.orders["page"]["GAUC"].mean == 0.0  # 1 stands above 2 and 5
    assert found.orders["prerank"]["AUC"].mean == 0.25  # 2 ties with 1, and 5 was cut
    assert np.isnan(found.orders["page"]["AUC"].mean)  # places are no scores
    # Popularity lists 1, 2, ... without the excluded 0: what is relevant stands second and fifth.
    assert found.orders["popularity"]["MRR"].mean == pytest.approx(0.5)
    assert found.coverage == pytest.approx(0.1)
    assert (found.requests, found.users) == (1, 1)


def test_several_requests_of_a_user_are_one_measurement(generation: Generation) -> None:
    def asked(user: str, found: list[int], wanted: int) -> tuple[Case, dict[str, Candidates]]:
        order = Candidates(np.array(found, np.int32), np.array([2.0, 1.0, 0.0], np.float32))
        case = Case(Query(user_id=user), np.array([wanted], np.int32), np.ones(1))
        return case, dict.fromkeys(("recall", "prerank", "rank", "rerank"), order)

    cases = [
        asked("ann", [1, 2, 3], 1),
        asked("bob", [1, 2, 3], 2),
        asked("ann", [1, 2, 3], 3),
        asked("ann", [4, 5, 6], 9),  # nothing relevant was found
        asked("", [1, 2, 3], 1),
        asked("", [1, 2, 3], 1),
    ]
    found = report(generation, "home", "held-out events", cases)
    assert (found.requests, found.users) == (6, 4)
    mrr = [(1 + 1 / 3 + 0) / 3, 1 / 2, 1.0, 1.0]
    np.testing.assert_allclose(found.values["rank"]["MRR"], mrr)
    assert found.orders["rank"]["MRR"].mean == pytest.approx(np.mean(mrr))
    np.testing.assert_allclose(found.values["rank"]["GAUC"], [0.5, 0.5, 1.0, 1.0])
    # AUC is of all candidates still; whose they are only says how sure it is.
    labels = [row in case.rows for case, left in cases for row in left["recall"].rows]
    expected = roc_auc_score(labels, np.tile([2.0, 1.0, 0.0], len(cases)))
    assert found.orders["rank"]["AUC"].mean == pytest.approx(expected)
    assert found.values["rank"]["AUC"].shape == (4,)


@pytest.mark.parametrize("listed", [0, 3, 40])
def test_gauc_is_the_area_under_the_curve_of_a_requests_recalled_items(listed: int) -> None:
    draw = np.random.default_rng(listed)
    recalled = draw.permutation(100)[:40].astype(np.int32)
    relevant = draw.permutation(100)[:30].astype(np.int32)
    ranked = draw.permutation(np.append(recalled[:listed], [101, 102])).astype(np.int32)
    places = {row: place for place, row in enumerate(ranked.tolist())}
    score = [-places.get(row, 1000) for row in recalled.tolist()]
    expected = roc_auc_score(np.isin(recalled, relevant), score)
    assert told_apart(ranked, recalled, relevant) == pytest.approx(expected)


def test_auc_is_of_all_requests_together_and_what_was_cut_comes_last() -> None:
    draw = np.random.default_rng(5)
    labels, scores, measured = [], [], []
    for size in (30, 50, 20):
        rows = draw.permutation(100)[:size].astype(np.int32)
        said = draw.integers(0, 9, size).astype(np.float32)
        better = draw.normal(size=size // 2).astype(np.float32)
        better[0] = np.nan  # has no value, so it comes last of what was kept
        relevant = rows[draw.random(size) < 0.3]
        trail = {
            "recall": Candidates(rows, said, {"recall.bm25": np.where(said > 4, said, np.nan)}),
            "prerank": Candidates(rows[: size // 2], better),
        }
        measured.append((Case(Query(), relevant, np.ones(len(relevant))), trail))
        labels.append(np.isin(rows, relevant))
        cut = [*np.where(np.isnan(better), 50, 100 + better), *said[size // 2 :]]
        scores.append((said, np.maximum(said, 4), cut))
    for at, name in enumerate(("recall", "recall.bm25", "prerank")):
        expected = roc_auc_score(np.concatenate(labels), np.concatenate([s[at] for s in scores]))
        assert told_apart_together(measured, name, np.arange(3)).mean() == pytest.approx(expected)


def test_gauc_is_not_known_where_nothing_relevant_was_recalled() -> None:
    rows = np.arange(3, dtype=np.int32)
    assert np.isnan(told_apart(rows, rows, np.array([7])))
    assert np.isnan(told_apart(rows, rows, rows))


def test_groups_come_in_order_of_their_first_place() -> None:
    found = [(key, part.tolist()) for key, part in groups(["b", "", "a", "b"])]
    assert found == [("b", [0, 3]), ("a", [2])]
    assert list(groups([])) == []
