"""The one Spark session of a process: quiet, in UTC, with Arrow, on any master."""

from __future__ import annotations

import os
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pyarrow as pa
from pyspark import SparkConf, SparkContext
from pyspark.errors import PySparkRuntimeError
from pyspark.java_gateway import launch_gateway
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.types import StructType

from funnel.errors import BadConfig

ROOT = Path(__file__).parents[1]
LOG = Path(__file__).with_name("log4j2.properties")


def session(
    master: str = "local[*]",
    memory: str = "2g",
    partitions: int = 4,
    scratch: Path | None = None,
) -> SparkSession:
    """The running session, or a new one.

    Under `spark-submit` the master and the memory are those of its command line. `scratch` takes
    Spark's temporary files, and spark.log with what Java has to say. Python on the workers is this
    Python, and finds this project.
    """
    settings = {
        "spark.app.name": "funnel",
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.shuffle.partitions": str(partitions),
        "spark.sql.execution.arrow.pyspark.enabled": "true",
        "spark.sql.execution.arrow.pyspark.fallback.enabled": "false",
        "spark.sql.adaptive.coalescePartitions.parallelismFirst": "false",
        "spark.sql.parquet.compression.codec": "zstd",
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        # Kept for a page that nobody looks at; a build has thousands of each.
        "spark.ui.retainedJobs": "50",
        "spark.ui.retainedStages": "50",
        "spark.sql.ui.retainedExecutions": "50",
    }
    submitted = "PYSPARK_GATEWAY_PORT" in os.environ  # spark-submit started Java
    if not submitted:
        if shutil.which("java") is None and "JAVA_HOME" not in os.environ:
            raise BadConfig(
                "Spark needs Java 17 or newer, and there is no `java`: see `make setup`"
            )
        java = f"-Duser.timezone=UTC -Dlog4j2.configurationFile={LOG.as_uri()} -XX:+UseSerialGC"
        settings |= {
            "spark.master": master,
            "spark.driver.memory": memory,
            "spark.driver.extraJavaOptions": java,
        }
        os.environ.setdefault("PYSPARK_PYTHON", sys.executable)  # Spark has no setting for it
        if master.startswith("local"):
            # The second compiler costs a build of minutes more than it gains it. Without it Java
            # keeps 48 MB of compiled code, throws away what is in use and compiles it again.
            compiled = " -XX:TieredStopAtLevel=1 -XX:ReservedCodeCacheSize=256m"
            settings["spark.driver.extraJavaOptions"] += compiled
            settings["spark.driver.host"] = settings["spark.driver.bindAddress"] = "127.0.0.1"
            settings["spark.executorEnv.PYTHONPATH"] = str(ROOT)
    if scratch is not None:
        settings["spark.local.dir"] = str(scratch / "local")
        settings["spark.sql.warehouse.dir"] = str(scratch / "warehouse")
        if SparkContext._active_spark_context is None and not submitted:
            _start(settings, scratch / "spark.log")
    builder = SparkSession.builder
    for key, value in settings.items():
        builder = builder.config(key, value)
    return builder.getOrCreate()


def _start(settings: Mapping[str, str], log: Path) -> None:
    """Starts Java with its standard error in a file, which no setting of Spark's can do."""
    log.parent.mkdir(parents=True, exist_ok=True)
    conf = SparkConf(loadDefaults=False).setAll(list(settings.items()))
    try:
        with log.open("ab") as file:
            gateway = launch_gateway(conf, {"stderr": file})  # type: ignore[no-untyped-call]
        SparkContext(conf=conf, gateway=gateway)
    except PySparkRuntimeError as error:
        raise BadConfig(f"Spark did not start ({error}): {log} says why") from error


def map_batches(
    frame: DataFrame,
    change: Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]],
    schema: StructType,
) -> DataFrame:
    """`change` run on the workers over the Arrow batches of each partition of the frame."""
    with warnings.catch_warnings():  # about pandas 3, which Arrow batches do not use
        warnings.filterwarnings("ignore", "PySpark does not yet fully support pandas")
        return frame.mapInArrow(change, schema)
