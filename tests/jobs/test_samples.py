"""Training samples: requests out of events, and nothing of their future."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from features.fold import ItemCounters
from funnel.catalogue import id_hash
from funnel.generation import Generation
from funnel.log import Logged, read
from funnel.types import Candidates
from jobs import events, item_stats, items, requests, samples, users
from jobs.candidates import outcome, thinned
from jobs.judged import CHANCE, Parted
from jobs.requests import outcome as became
from jobs.work import Work
from recall import build

START, MINUTE, DAY = 1_700_000_000_000, 60_000, 86_400_000
SETTLE = 2000
CONFIG: dict[str, Any] = {
    "features": {"history": 5, "half_lives": [1.0, 6.0], "settle_ms": SETTLE},
    "data": {"positive": {"click": 1.0, "purchase": 4.0}},
    "build": {"holdout": 0.1, "sample_share": 0.5, "negatives": 4},
    "scenes": {"home": {"exclude": ["purchase"]}},
}
PURCHASE = float(np.float32(np.log2(1 + 4.0)))  # its label: the gain, 2^label - 1, is its weight
FUTURE = 11  # the row of an item that nobody touches before the last hour


def shop(seed: int = 3) -> list[dict[str, Any]]:
    """Home pages of four items: impressions, clicks seconds later, purchases minutes later."""
    draw, log = np.random.default_rng(seed), []
    for n in range(120):
        at = START + n * DAY // 6 + int(draw.integers(MINUTE))
        user, session = f"u{draw.integers(5)}", f"s{n}"
        page = draw.permutation(9)[:4]
        for place, item in enumerate(page, 1):
            entry = {
                "user_id": user,
                "item_id": f"i{item:02d}",
                "session_id": session,
                "request_id": f"r{n:03d}",
                "scene": "home",
                "position": place,
            }
            log.append({**entry, "action": "impression", "timestamp": at})
            if draw.random() < 0.4:
                log.append({**entry, "action": "click", "timestamp": at + place * 1000})
                if draw.random() < 0.3:
                    bought = {**entry, "request_id": None, "position": None, "action": "purchase"}
                    log.append({**bought, "timestamp": at + 5 * MINUTE})
    last = max(event["timestamp"] for event in log)
    late = {"user_id": "u0", "item_id": f"i{FUTURE}", "action": "click", "request_id": "late"}
    log += [{**late, "timestamp": last + n, "scene": "home"} for n in range(3)]
    for number, event in enumerate(log):
        event["event_id"] = f"e{number:04d}"
    return log


@pytest.fixture(scope="module")
def log() -> list[dict[str, Any]]:
    return shop()


@pytest.fixture(scope="module")
def work(
    opened: Callable[..., Work],
    data_set: Callable[..., Path],
    goods: object,
    log: list[dict[str, Any]],
) -> Work:
    work = opened(data_set(items=goods, events=log), CONFIG)
    _sampled(work)
    return work


def _sampled(work: Work) -> dict[str, Any]:
    for job in (items, events, users, item_stats, requests):
        job.run(work)
    return samples.run(work)


@pytest.fixture(scope="module")
def found(work: Work) -> list[Logged]:
    found = list(read(work.samples / "home", "home"))
    assert len(found) > 20
    return found


def of(log: list[dict[str, Any]], request: str) -> list[dict[str, Any]]:
    return [event for event in log if event["request_id"] == request]


def test_requests_with_something_positive_between_the_cuts_are_sampled(
    work: Work, found: list[Logged], log: list[dict[str, Any]]
) -> None:
    asked = {entry.query.request_id: entry.query.at for entry in found}
    expected = {}
    for request in {event["request_id"] for event in log if event["request_id"]}:
        own = [e for e in of(log, request) if work.past <= e["timestamp"] < work.until]
        if any(event["action"] == "click" for event in own):
            expected[request] = min(event["timestamp"] for event in own)
    assert asked == expected


def test_a_history_is_what_the_user_did_strictly_before_the_request(
    work: Work, found: list[Logged], log: list[dict[str, Any]]
) -> None:
    codes = work.config.all_actions
    for entry in found:
        query = entry.query
        before = [
            event
            for event in log
            if event["user_id"] == query.user_id
            and event["action"] != "impression"
            and event["timestamp"] < query.at
        ]
        before.sort(key=lambda event: (event["timestamp"], event["event_id"]))
        expected = [
            (int(e["item_id"][1:]), codes.index(e["action"]), e["timestamp"]) for e in before[-5:]
        ]
        history = query.history
        assert expected == list(
            zip(
                history.rows.tolist(),
                history.actions.tolist(),
                history.times.tolist(),
                strict=True,
            )
        )


def test_live_counters_know_only_events_that_had_settled_before_the_request(
    work: Work, found: list[Logged], log: list[dict[str, Any]]
) -> None:
    names = [name for name in found[0].candidates.columns if name.startswith("live.")]
    for entry in found:
        counters = ItemCounters.empty(work.config, 12, work.past)
        assert tuple(names) == counters.names
        known = [event for event in log if event["timestamp"] <= entry.query.at - SETTLE]
        counters.apply(
            np.array([int(event["item_id"][1:]) for event in known]),
            counters.codes([event["action"] for event in known]),
            np.array([event["timestamp"] for event in known]),
        )
        expected = counters.hydrate(entry.query, entry.candidates.rows)
        for name in names:
            column = entry.candidates.columns[name]
            np.testing.assert_allclose(column, expected[name], rtol=1e-5, atol=1e-7)


def test_nothing_of_the_future_is_in_a_sample(work: Work, log: list[dict[str, Any]]) -> None:
    """An item that is clicked only after the last request leaves no trace anywhere."""
    stats = np.load(work.draft / "counters/state.npy")
    assert not stats[FUTURE].any()
    candidates = pq.read_table(work.samples / "home/candidates").to_pydict()
    places = [place for place, row in enumerate(candidates["row"]) if row == FUTURE]
    for name in (name for name in candidates if name.startswith(("live.", "label", "position"))):
        assert not any(candidates[name][place] for place in places)
    times = pq.read_table(work.samples / "home/requests").to_pydict()
    for at, before in zip(times["at"], times["history_times"], strict=True):
        assert all(time < at for time in before)
        assert at < work.until


def test_what_a_sample_knows_does_not_change_when_later_events_do(
    found: list[Logged],
    opened: Callable[..., Work],
    data_set: Callable[..., Path],
    goods: object,
    work: Work,
    log: list[dict[str, Any]],
) -> None:
    """What is known of the first half of the requests and their candidates is the same when what
    follows them is another story."""
    middle = found[len(found) // 2].query.at
    told = [event for event in log if event["timestamp"] < middle]
    other = [event for event in shop(seed=99) if event["timestamp"] >= middle + DAY]
    for event in other:
        event["event_id"] = "other" + event["event_id"]
        event["request_id"] = event["request_id"] and "other" + event["request_id"]
    data = data_set(items=goods, events=[*told, *other])
    again = opened(data, CONFIG)
    object.__setattr__(again, "until", work.until)
    object.__setattr__(again, "past", work.past)
    _sampled(again)
    theirs = {entry.query.request_id: entry for entry in read(again.samples / "home", "home")}
    compared = 0
    for ours in found:
        if ours.query.at >= middle:
            continue
        entry = theirs[ours.query.request_id]
        assert entry.query.history.rows.tolist() == ours.query.history.rows.tolist()
        # What is wanted later is, and by it which of the others are kept.
        both, own, other = np.intersect1d(
            ours.candidates.rows, entry.candidates.rows, return_indices=True
        )
        assert len(both) > 2
        for name, column in ours.candidates.columns.items():
            if name != CHANCE:
                np.testing.assert_array_equal(entry.candidates.columns[name][other], column[own])
        compared += 1
    assert compared > 10


def test_a_label_is_the_best_of_what_the_user_wanted_next(
    work: Work, found: list[Logged], log: list[dict[str, Any]]
) -> None:
    weights = {"click": 1.0, "purchase": 4.0}
    purchases = elsewhere = 0
    for entry in found:
        query = entry.query
        then = [e for e in log if e["user_id"] == query.user_id and e["action"] in weights]
        then = [e for e in then if query.at <= e["timestamp"] < work.until]
        best: dict[int, float] = {}
        for event in sorted(then, key=lambda e: e["timestamp"]):
            row = int(event["item_id"][1:])
            if row in best or len(best) < 10:
                best[row] = max(best.get(row, 0.0), weights[event["action"]])
        worth = [best.get(row, 0.0) for row in entry.candidates.rows.tolist()]
        np.testing.assert_allclose(np.exp2(entry.labels) - 1, worth, rtol=1e-6)  # its gain in nDCG
        purchases += 4.0 in worth
        elsewhere += ((entry.labels > 0) & (entry.positions == 0)).sum()
    assert purchases > 3
    assert elsewhere > 3


def test_what_was_shown_keeps_its_position(found: list[Logged], log: list[dict[str, Any]]) -> None:
    for entry in found:
        shown = {
            int(event["item_id"][1:]): event["position"]
            for event in of(log, entry.query.request_id)
            if event["action"] == "impression"
        }
        places = zip(entry.candidates.rows.tolist(), entry.positions.tolist(), strict=True)
        assert {row: place for row, place in places if place} == {
            row: place for row, place in shown.items() if row in entry.candidates.rows
        }


def test_what_validates_is_whole_and_what_is_learned_from_stands_for_the_rest(
    work: Work, found: list[Logged]
) -> None:
    """Against what recall returns when it is asked."""
    generation = Generation.open(work.past_draft, check=False)
    recall = build(generation, work.config, "home")
    parted = Parted.among(work, "home", requests.table(work))
    assert len(parted.valid) == round(len(found) * 0.2)
    smaller = 0
    for entry in found:
        rows = recall.run(entry.query, Candidates.empty()).rows
        chances = entry.candidates.columns[CHANCE]
        assert set(entry.candidates.rows) <= set(rows)
        if entry.query.request_id in parted.valid:
            assert set(entry.candidates.rows) == set(rows)
            assert (chances == 1).all()
        elif len(entry.candidates) < len(rows):
            assert (chances < 1).any()
            smaller += 1
    assert smaller


def test_what_the_scene_excludes_is_gone_wanted_again_or_not(
    found: list[Logged], log: list[dict[str, Any]]
) -> None:
    """Let in because it is wanted again, an item that was bought would be sure to be wanted."""
    again = 0
    for entry in found:
        bought = entry.query.history.rows[entry.query.history.actions == 3]
        assert set(entry.query.excluded) == set(bought)
        assert not np.isin(bought, entry.candidates.rows).any()
        own = of(log, entry.query.request_id)
        clicked = [int(event["item_id"][1:]) for event in own if event["action"] == "click"]
        again += np.isin(clicked, bought).sum()
    assert again


def test_graded_queries_of_training_and_validation_are_searches_without_a_user(
    opened: Callable[..., Work], data_set: Callable[..., Path], goods: object
) -> None:
    splits = {"a": "train", "b": "valid", "c": "test", "d": "train"}
    queries = [{"query_id": q, "query": f" lamp  {q}", "split": s} for q, s in splits.items()]
    qrels = [
        {"query_id": q, "item_id": f"i{n:02d}", "grade": grade}
        for q in "abc"
        for n, grade in enumerate([0, 3, 1])
    ]
    qrels.append({"query_id": "d", "item_id": "i05", "grade": 0})  # nothing relevant: no use
    work = opened(data_set(items=goods, queries=queries, qrels=qrels))
    items.run(work)
    assert requests.run(work) == {"search": 2}
    (query, judged), (other, _) = requests.requests(work)
    assert (query.text, query.user_id, query.at) == ("lamp a", "", work.past)
    assert judged == {0: (0.0, 0), 1: (3.0, 0), 2: (1.0, 0)}
    assert {other.request_id} == requests.validating(work)


@pytest.mark.parametrize("named", [True, False])
def test_queries_of_the_validation_split_validate_and_no_others(
    opened: Callable[..., Work], data_set: Callable[..., Path], goods: object, named: bool
) -> None:
    splits = {f"q{n:02d}": "valid" if named and n % 3 == 0 else "train" for n in range(40)}
    queries = [{"query_id": q, "query": q, "split": split} for q, split in splits.items()]
    qrels = [{"query_id": q, "item_id": "i01", "grade": 1} for q in splits]
    work = opened(data_set(items=goods, queries=queries, qrels=qrels))
    items.run(work)
    requests.run(work)
    names = [query.request_id for query, _ in requests.requests(work)]
    tables = {
        "requests": {"request_id": names, "user_id": [""] * 40, "at": [work.past] * 40},
        "candidates": {"request_id": names, "label": [1.0] * 40},
    }
    for folder, table in tables.items():
        path = work.samples / "search" / folder
        path.mkdir(parents=True)
        pq.write_table(pa.table(table), path / "part-0.parquet")
    parted = Parted.of(work, "search")
    assert parted.train | parted.valid == set(names)
    if named:
        assert parted.valid == {f"query-{q}" for q, split in splits.items() if split == "valid"}
    else:  # a share of them, told by their ids
        share = work.config.build.valid_share
        assert parted.valid == {q for q in names if id_hash(q) / 2**64 < share}
        assert 0 < len(parted.valid) < 20


def test_without_request_ids_each_positive_event_is_a_request(
    opened: Callable[..., Work], data_set: Callable[..., Path], goods: object
) -> None:
    log = [
        {
            "user_id": "u",
            "item_id": f"i{n % 12:02d}",
            "action": "dislike" if n % 3 == 0 else "click",
            "timestamp": START + n * 20 * MINUTE,
        }
        for n in range(40)
    ]
    data = data_set(items=goods, events=log)
    work = opened(data, {"build": {"holdout": 0.25, "sample_share": 0.2}})
    items.run(work)
    events.run(work)
    made = requests.run(work)
    found = requests.requests(work)
    times = [event["timestamp"] for event in log if event["action"] == "click"]
    assert [query.at for query, _ in found] == [t for t in times if work.past <= t < work.until]
    assert made == {"home": len(found)}
    for query, wanted in found:
        then = [t for t in times if query.at <= t < work.until]
        following = dict.fromkeys((t - START) // (20 * MINUTE) % 12 for t in then)
        assert list(wanted) == list(following)[:10]


# The parts, by hand-made cases.


def happened(row: int, weight: float, own: bool, visit: bool = True) -> dict[str, Any]:
    return {"row": row, "weight": weight, "position": None, "own": own, "visit": visit}


def test_purchases_later_in_the_visit_count_for_what_was_shown_only() -> None:
    after = [
        happened(1, 0.0, True),
        happened(2, 0.0, True),
        happened(1, 1.0, True),
        happened(1, 4.0, False),
        happened(3, 4.0, False),
        happened(2, 4.0, False, visit=False),
    ]
    assert became(after, typed=True) == {1: (PURCHASE, 1), 2: (0.0, 2)}


def test_where_nothing_was_typed_the_next_ten_items_count_and_no_more() -> None:
    after = [happened(row, 1.0, row == 0) for row in range(15)]
    after.insert(1, happened(20, 0.0, False))
    assert list(became(after, typed=False)) == list(range(10))
    # What the page had shown and clicks on it always do, and a better action on what counts.
    page = [happened(row, 0.0, True) for row in (30, 31)] + [happened(30, 1.0, True)]
    after = [*page, *after, happened(3, 4.0, False), happened(31, 1.0, False)]
    found = became(after, typed=False)
    assert found[30] == (1.0, 1)
    assert found[31] == (0.0, 2)
    assert found[3] == (PURCHASE, 0)
    assert [row for row, (label, _) in found.items() if label > 0] == [30, *range(9)]


def test_rows_that_were_not_seen_have_no_outcome() -> None:
    rows = np.array([5, 1, 9], np.int32)
    labels, positions, known = outcome(rows, {9: (2.0, 3), 1: (0.0, 1), 4: (1.0, 2)})
    assert labels.tolist() == [0, 0, 2]
    assert positions.tolist() == [0, 1, 3]
    assert known.tolist() == [False, True, True]
    assert outcome(rows, {})[2].tolist() == [False] * 3


KINDS = [{}, {"hard": 1.0}, {"even": 1.0, "hard": 2.0}, {"popular": 1.0, "hard": 1.0, "even": 1.0}]


@pytest.mark.parametrize("kinds", KINDS)
@pytest.mark.parametrize("most", [0, 7, 50])
def test_thinning_keeps_what_is_known_and_some_of_the_rest(
    most: int, kinds: dict[str, float]
) -> None:
    known = np.zeros(30, bool)
    known[[2, 17, 29]] = True
    popular = np.arange(30.0)
    index, chances = thinned(known, most, np.random.default_rng(0), kinds, popular)
    assert len(index) == 3 + min(most, 27)
    assert (np.diff(index) > 0).all()
    assert set(np.flatnonzero(known)) <= set(index.tolist())
    assert (chances[known[index]] == 1).all()
    assert ((chances > 0) & (chances <= 1)).all()
    if most >= 27:
        assert (chances == 1).all()
    again, _ = thinned(known, most, np.random.default_rng(0), kinds, popular)
    assert index.tolist() == again.tolist()


@pytest.mark.parametrize("kinds", KINDS)
def test_chances_are_how_often_a_place_is_kept(kinds: dict[str, float]) -> None:
    """Counted as many as it stands for, each place is there once on average."""
    known, popular = np.zeros(60, bool), 1.0 + np.arange(60) % 7
    sums, squares, rounds = np.zeros(60), np.zeros(60), 4000
    for n in range(rounds):
        index, chances = thinned(known, 20, np.random.default_rng(n), kinds, popular)
        sums[index] += 1 / chances
        squares[index] += 1 / chances**2
    mean = sums / rounds
    error = np.sqrt((squares / rounds - mean**2) / rounds)
    there = mean > 0  # where all are hard, those far down never are
    assert there[:6].all()
    assert there.all() or set(kinds) == {"hard"}
    assert (abs(mean - 1)[there] < 4.5 * error[there] + 1e-9).all()


def test_no_place_in_the_list_is_thinned_more_than_another() -> None:
    draws = [thinned(np.zeros(50, bool), 10, np.random.default_rng(n))[0] for n in range(2000)]
    often = np.bincount(np.concatenate(draws), minlength=50)
    assert (abs(often - 400) < 5 * np.sqrt(400 * 0.8)).all()
