from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.recall_live import (
    asked,
    built,
    churned,
    difference,
    encoded,
    joined,
    overlap,
    rebuild,
)
from funnel.changes import FOLDER, table
from funnel.generation import Generation
from funnel.live import Entry
from funnel.overlay import Change, LiveCatalogue
from recall.bm25 import BM25
from recall.vector import Vector


def test_a_merged_index_is_compared_with_a_build_of_the_same_items(tmp_path: Path) -> None:
    shop = built(tmp_path, 300, 90, 1)
    upserts, deletes = churned(shop, 0.3, 2)
    assert (len(upserts), len(deletes)) == (75, 15)
    ids = {str(one["item_id"]) for one in upserts}
    assert len(ids) == 75
    assert ids.isdisjoint(deletes)
    assert sum(id >= "i000000300" for id in ids) == 30
    generation = Generation.open(shop.generation, live=True)
    lexical = BM25.open(generation, shop.config)
    vector = Vector.open(generation, shop.config)
    live = generation.items
    assert lexical is not None
    assert vector is not None
    assert isinstance(live, LiveCatalogue)
    changes = [Change(pa.Table.from_pylist(upserts)), Change(None, tuple(deletes))]
    applied = live.apply(changes)
    lexical.upsert(applied.rows, applied.items)
    vector.upsert(applied.rows, applied.items)
    entries = [Entry(f"{at}-0", change) for at, change in enumerate(changes, 1)]
    (tmp_path / "log" / FOLDER).mkdir(parents=True)
    pq.write_table(table(entries), tmp_path / "log" / FOLDER / "2-0.parquet")
    rebuilt, _ = rebuild(shop, vector)
    assert len(rebuilt[0]) == 300 + 30 - 15
    queries = asked(shop, np.random.default_rng(3), 30)
    assert difference(rebuilt, joined(shop, lexical, live), queries) <= 1e-6
    assert 1e-6 < difference(rebuilt, (live, lexical), queries) < 5
    assert live.alive is not None
    assert overlap(vector, encoded(vector, live), live.alive, queries) > 0.95
