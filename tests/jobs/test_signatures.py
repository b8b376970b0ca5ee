"""Near-duplicates in a data set are found in what the job writes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from jobs import items as items_job
from jobs import signatures
from jobs.work import Work
from rerank.signatures import resemblance

LONG = "a compact compost bin in white wicker made for balconies and small gardens, built to last"


def test_every_item_is_signed_in_row_order_in_both_drafts(
    data_set: Callable[..., Path], opened: Callable[..., Work], tmp_path: Path
) -> None:
    rows: list[dict[str, Any]] = [
        {"item_id": "b", "title": "Composter", "description": LONG},
        {"item_id": "a", "title": "Composter", "description": LONG + " (refreshed)"},
        {"item_id": "d", "title": "Sofa", "description": None},
        {"item_id": "c", "title": "Sofa", "description": "soft"},
    ]
    work = opened(data_set(items=rows), until=1_700_000_000_000)
    items_job.run(work)
    assert signatures.run(work) == {"items": 4, "with_words": 4}
    for draft, _ in work.drafts:
        signed = np.load(draft / "dedup/signatures.npy")
        close = resemblance(signed)
        assert close[0, 1] >= 0.8
        assert close[2:, :2].max() < 0.3
        assert close[2, 3] < 0.8
