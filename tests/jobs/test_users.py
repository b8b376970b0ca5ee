from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from funnel.generation import Generation
from jobs import events, items, users
from jobs.work import Work

START = 1_700_000_000_000


def done(user: str, at: int) -> dict[str, object]:
    return {"user_id": user, "item_id": "i01", "action": "click", "timestamp": START + at}


def test_users_are_sorted_and_their_attributes_coded(
    opened: Callable[..., Work], data_set: Callable[..., Path], goods: object
) -> None:
    people = [{"user_id": "b", "age": "old"}, {"user_id": "a", "age": "young"}, {"user_id": "c"}]
    work = opened(data_set(items=goods, users=people), {"data": {"user_categorical": ["age"]}})
    items.begin(work)
    assert users.run(work) == {"users": 3}
    for draft, _ in work.drafts:
        catalogue = Generation.open(draft, check=False).users
        assert catalogue.ids.to_pylist() == ["a", "b", "c"]
        assert catalogue.codes("age").tolist() == [1, 0, -1]


def test_without_a_users_table_they_are_those_who_did_something_before_the_cut(
    opened: Callable[..., Work], data_set: Callable[..., Path], goods: object
) -> None:
    did = [done("late", 50), *(done(user, at) for at, user in enumerate("cabca"))]
    work = opened(data_set(items=goods, events=did), None, START + 10)
    items.run(work)
    events.run(work)
    assert users.run(work) == {"users": 3}
    catalogue = Generation.open(work.draft, check=False).users
    assert catalogue.ids.to_pylist() == ["a", "b", "c"]


def test_without_users_and_events_there_is_nothing_to_do(
    opened: Callable[..., Work], data_set: Callable[..., Path], goods: object
) -> None:
    work = opened(data_set(items=goods))
    assert users.run(work) == {}
    assert not (work.draft / "users").exists()
