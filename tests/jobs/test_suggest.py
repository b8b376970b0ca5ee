"""Which past queries others may see."""

from __future__ import annotations

from pyspark.sql import SparkSession

from jobs.suggest import typed


def test_a_query_counts_once_a_user_and_only_where_enough_users_typed_it(
    spark: SparkSession,
) -> None:
    events = [
        ("u1", "Red  shoe", 1),
        ("u2", "red shoe", 2),
        ("u3", " red shoe", 3),
        ("u3", "red shoe", 4),
        ("u1", "my secret", 1),
        ("u1", "my secret", 2),
        ("u1", "my secret", 3),
        ("u2", "my secret", 3),
        ("u1", "late", 1),
        ("u2", "late", 2),
        ("u3", "late", 99),
        ("", "nobody", 1),
        ("u1", "nobody", 1),
        ("u2", "nobody", 1),
        ("u1", "", 1),
        ("u2", "", 1),
        ("u3", "", 1),
    ]
    frame = spark.createDataFrame(events, "user_id string, query string, timestamp long")
    found = typed(frame, before=50, users=3).collect()
    assert [(row["query"], row["count"]) for row in found] == [("red shoe", 3)]
