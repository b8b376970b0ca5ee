"""What all tests share: one Spark session, and the way to the public data sets."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from xdist.scheduler import LoadScopeScheduling

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

# Spark's Java is forked, also by a process whose tests spoke gRPC before: gRPC would start its
# threads again in the child, where they poll descriptors that are closed and now and then end it.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

ROOT = Path(__file__).parents[1]
WHOLE = "end_to_end", "jobs"  # folders that share what is dear: a built shop, a Spark session


class Together(LoadScopeScheduling):
    """What shares fixtures runs in one process, whatever the number of processes."""

    def _split_scope(self, nodeid: str) -> str:
        folders = nodeid.split("::", 1)[0].split("/")
        return next((name for name in WHOLE if name in folders), "/".join(folders))


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Together:
    """With `-n`: groups told by path, not by xdist's marks, which pytest 9.2 loses in silence."""
    return Together(config, log)


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
