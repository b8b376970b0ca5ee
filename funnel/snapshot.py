"""
Fills the live store with what a generation knows of its users, before anybody serves them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from features.store import Store
from funnel.config import Config
from funnel.generation import Generation, current

BATCH = 1000  # users
User = tuple[str, list[str], list[str], list[int]]


def published(config: Config) -> Generation:
    """The generation that is served. Raises `BadGeneration` where none is."""
    root = Path(config.build.root)
    return Generation.open(root / current(root), check=False)


def snapshot(store: Store, generation: Generation) -> int:
    """Loads histories and counters of the generation's users as of its cut; how many users changed.

    What the store has already wins, so it does no harm to do it again.
    """
    total = 0
    for users, counts in _batches(generation) if generation.has("users") else ():
        total += store.seed(users, "", counts, generation.manifest.until)
    store.seed([], generation.id)
    return total


def _batches(generation: Generation) -> Iterator[tuple[list[User], dict[str, list[float]]]]:
    actions, users = generation.manifest.actions, generation.users.table
    if "item_rows" not in users.column_names:
        return
    for start in range(0, len(users), BATCH):
        part = [user for user in users.slice(start, BATCH).to_pylist() if _known(user)]
        yield (
            [
                (
                    user["user_id"],
                    generation.items.item_ids(user["item_rows"]),
                    [actions[code] for code in user["actions"]],
                    user["times"],
                )
                for user in part
            ],
            {user["user_id"]: user["counts"] for user in part if user.get("counts")},
        )


def _known(user: dict[str, list[int]]) -> bool:
    return bool(user["item_rows"] or user.get("counts"))
