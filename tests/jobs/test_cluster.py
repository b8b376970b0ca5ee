"""The jobs on a real standalone cluster, a master and two workers: the tables of one process."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pyspark
import pytest

from funnel.generation import Generation
from jobs import events, item_stats, items, requests, samples, user_stats, users
from jobs.work import Work

ROOT = Path(__file__).parents[2]
BIN = Path(pyspark.__file__).parent / "bin"
DAY = 86_400_000
START = 19_700 * DAY
JOBS = ("items", "events", "users", "item_stats", "user_stats", "requests", "samples")
CONFIG: dict[str, Any] = {
    "data": {"positive": {"click": 1.0, "purchase": 4.0}},
    "features": {"history": 5, "users": True, "windows": ["1h", "2d"], "pairs": 50},
    "build": {"day_events": 1, "negatives": 4, "holdout": 0.1, "sample_share": 0.5},
}


def environment() -> dict[str, str]:
    """What an installation of the project on every machine of a cluster would be."""
    named = {"PYTHONPATH": str(ROOT), "PYSPARK_PYTHON": sys.executable, "TZ": "UTC"}
    local = {"SPARK_LOCAL_IP": "127.0.0.1", "SPARK_NO_DAEMONIZE": "1"}
    # What local sessions have (jobs/spark.py), for each of the five Javas: half the time.
    quick = "-XX:TieredStopAtLevel=1 -XX:ReservedCodeCacheSize=256m -XX:+UseSerialGC"
    java = {"JDK_JAVA_OPTIONS": quick, "PYSPARK_DRIVER_PYTHON": sys.executable}
    return {**os.environ, **named, **local, **java}


@pytest.fixture(scope="module")
def master(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The url of a master with two workers of one core."""
    folder = tmp_path_factory.mktemp("cluster")
    started: list[subprocess.Popen[bytes]] = []

    def start(kind: str, *args: str) -> Path:
        log = folder / f"{len(started)}.log"
        name = f"org.apache.spark.deploy.{kind}"
        command = [str(BIN / "spark-class"), name, "--host", "127.0.0.1", *args]
        with log.open("wb") as file:
            process = subprocess.Popen(
                command, stdout=file, stderr=file, env=environment(), start_new_session=True
            )
        started.append(process)
        return log

    try:
        log = start("master.Master", "--port", "0", "--webui-port", "0")
        url = said(log, r"Starting Spark master at (spark://\S+)")
        for number in range(2):
            work = ("--work-dir", str(folder / f"work-{number}"), "--webui-port", "0")
            start("worker.Worker", "--cores", "1", "--memory", "1g", *work, url)
        for number in (1, 2):
            said(folder / f"{number}.log", r"(Successfully registered) with master")
        yield url
    finally:
        for process in started:
            os.killpg(process.pid, signal.SIGTERM)
        for process in started:
            process.wait(30)


def said(log: Path, pattern: str, seconds: float = 60.0) -> str:
    """What a process wrote, once it has."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if found := re.search(pattern, log.read_text(errors="replace")):
            return found.group(1)
        time.sleep(0.1)
    raise AssertionError(f"no '{pattern}' in {log.read_text(errors='replace')}")


def happened() -> list[dict[str, Any]]:
    draw, log = np.random.default_rng(4), []
    for n in range(90):
        at = START + n * DAY // 9 + int(draw.integers(60_000))
        for place, item in enumerate(draw.permutation(9)[:4], 1):
            entry = {
                "user_id": f"u{draw.integers(5)}",
                "item_id": f"i{item:02d}",
                "request_id": f"r{n:03d}",
                "scene": "home",
                "query": "lamp" if n % 3 else None,
            }
            log.append({**entry, "action": "impression", "timestamp": at, "position": place})
            if draw.random() < 0.5:
                log.append({**entry, "action": "click", "timestamp": at + 1000 * place})
    return [{**event, "event_id": f"e{number:04d}"} for number, event in enumerate(log)]


def test_a_cluster_makes_the_tables_of_one_process(
    master: str,
    opened: Callable[..., Work],
    data_set: Callable[..., Path],
    goods: object,
    tmp_path: Path,
) -> None:
    data = data_set(items=goods, events=happened())
    ours = opened(data, CONFIG)
    for job in (items, events, users, item_stats, user_stats, requests, samples):
        job.run(ours)

    file = tmp_path / "funnel.toml"
    build = {"root": str(tmp_path / "generations"), "partitions": 2, "driver_memory": "1g"}
    tables = {**CONFIG, "log": {"dir": ""}, "build": {**CONFIG["build"], **build}}
    file.write_text("\n".join(toml(name, table) for name, table in tables.items()))
    # All in one driver, as a build has them; then one job by spark-submit, over what it finds.
    script = tmp_path / "every.py"
    script.write_text(EVERY.format(jobs=", ".join(JOBS), names=", ".join(JOBS)))
    run([sys.executable, str(script), str(data), str(file), master])
    submit = [str(BIN / "spark-submit"), "--master", master, "--conf", "spark.ui.enabled=false"]
    job = [str(ROOT / "jobs/__main__.py"), "item_stats", str(data), "--config", str(file)]
    made = json.loads(run([*submit, *job]).strip().splitlines()[-1])
    assert made["items_with_events"] == 9

    theirs = next((tmp_path / "generations/.work").iterdir())
    for draft in ("past", "draft"):
        names = [
            path.relative_to(ours.root / draft)
            for part in ("items", "counters", "popular", "windows", "pairs")
            for path in (ours.root / draft / part).rglob("*.npy")
        ]
        assert len(names) > 8
        for name in names:
            found, expected = np.load(theirs / draft / name), np.load(ours.root / draft / name)
            assert found.dtype == expected.dtype
            if found.dtype.kind == "f":  # sums in another order
                np.testing.assert_allclose(found, expected, rtol=1e-12, err_msg=str(name))
            else:
                np.testing.assert_array_equal(found, expected, err_msg=str(name))
    one = Generation.open(ours.draft, check=False).users.table
    two = Generation.open(theirs / "draft", check=False).users.table
    assert one.drop_columns(["counts"]).equals(two.drop_columns(["counts"]))
    for table in ("requests", "candidates"):
        expected = pq.read_table(ours.samples / "home" / table).to_pandas()
        found = pq.read_table(theirs / "samples/home" / table).to_pandas()
        assert len(found) == len(expected) > 20
        for name in expected.columns:
            if expected[name].dtype.kind == "f":
                np.testing.assert_allclose(found[name], expected[name], rtol=1e-6, err_msg=name)
            else:
                assert list(map(str, found[name])) == list(map(str, expected[name])), name


EVERY = """
import sys
from jobs import {jobs}
from jobs.work import Work
from funnel.config import load
if __name__ == "__main__":
    data, file, master = sys.argv[1:]
    work = Work.open(data, load(file, {{"build": {{"master": master}}}}))
    for job in ({names}):
        job.run(work)
    assert work.spark.sparkContext.master == master
    work.spark.stop()
"""


def run(command: list[str]) -> str:
    done = subprocess.run(command, env=environment(), capture_output=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout.decode()[-3000:] + done.stderr.decode()[-6000:]
    return done.stdout.decode()


def toml(name: str, table: dict[str, Any]) -> str:
    flat = {k: v for k, v in table.items() if not isinstance(v, dict)}
    deep = {k: v for k, v in table.items() if isinstance(v, dict)}
    lines = [f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in flat.items())]
    return "\n".join([*lines, *(toml(f"{name}.{key}", value) for key, value in deep.items())])
