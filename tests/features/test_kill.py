"""What was acknowledged is there after the service, or the server, was killed."""

from __future__ import annotations

from pathlib import Path

from benchmarks.features_store import killed_server, killed_service, settings
from features.embedded import Embedded
from features.store import Store


def test_nothing_acknowledged_is_lost_when_the_service_is_killed(tmp_path: Path) -> None:
    with Embedded(tmp_path) as url, Store(url, settings()) as store:
        acked, lost = killed_service(url, store)
    assert acked >= 10_000
    assert lost == 0


def test_nothing_acknowledged_is_lost_when_an_appending_server_is_killed(tmp_path: Path) -> None:
    acked, lost = killed_server(tmp_path)
    assert acked == 5_000
    assert lost == 0
