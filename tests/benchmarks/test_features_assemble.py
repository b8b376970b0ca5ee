from __future__ import annotations

from benchmarks.features_assemble import rows


def test_it_measures_the_assembler_and_the_replica():
    found = rows(items=2500, seconds=0.5, times=5)
    said = " ".join(row["method"] for row in found)
    for word in ("matrix: default, 67", "matrix: all counted", "counts:", "lag at", "meanwhile"):
        assert word in said
    assert all(0 <= row["p50_ms"] <= row["p99_ms"] for row in found)
