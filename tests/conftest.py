"""What all tests share: one Spark session, and the way to the public data sets."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

ROOT = Path(__file__).parents[1]
WHOLE = "end_to_end", "jobs"  # folders that share what is dear: a built shop, a Spark session


def pytest_itemcollected(item: pytest.Item) -> None:
    """What shares fixtures runs in one process, whatever the number of processes."""
    path = item.path.relative_to(ROOT / "tests")
    name = path.parts[0] if path.parts[0] in WHOLE else str(path)
    item.add_marker(pytest.mark.xdist_group(name))


@pytest.fixture(scope="session")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SparkSession]:
    """One session for all Spark tests: starting it costs more than most of them."""
    from jobs.spark import session

    warehouse = tmp_path_factory.mktemp("spark")
    spark = session(master="local[2]", memory="1g", partitions=2, scratch=warehouse)
    yield spark
    spark.stop()


@pytest.fixture(scope="session")
def shared_data() -> Callable[[str], Path]:
    """The folder of a public data set; skips the test where it is not on this machine.

    They are looked for in $FUNNEL_SHARED_DATA, or in `shared/data` beside or above the checkout.
    """
    named = os.environ.get("FUNNEL_SHARED_DATA")
    places = [Path(named)] if named else [ROOT / "shared/data", ROOT.parent / "shared/data"]

    def folder(name: str) -> Path:
        for place in places:
            if (place / name).is_dir():
                return place / name
        pytest.skip(f"the data set '{name}' is not here; set FUNNEL_SHARED_DATA to its parent")

    return folder
