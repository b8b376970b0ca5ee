from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from features.embedded import LONGEST_SOCKET, Embedded, held
from features.event import Event
from features.store import Store
from funnel.config import parse
from funnel.errors import BadConfig, SetupError, Unavailable

T = 1_700_000_000_000
ROOT = Path(__file__).parents[2]


def config_of(path):
    return parse({"store": {"dir": str(path), "timeout_ms": 5000}})


def until(true, seconds=10.0):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_state_outlives_the_server(tmp_path):
    config = config_of(tmp_path)
    with Store.open(config) as store:
        store.track([Event("ann", "i1", "click", T)])
    assert not (tmp_path / "address").exists()
    assert not held(tmp_path)
    with Store.open(config) as store:
        assert store.user("ann").item_ids == ("i1",)


def test_the_second_process_uses_the_server_of_the_first(tmp_path):
    config = config_of(tmp_path)
    code = (
        "import sys; from features.store import Store; from funnel.config import parse\n"
        "store = Store.open(parse({'store': {'dir': sys.argv[1], 'timeout_ms': 5000}}))\n"
        "print(*store.user('ann').item_ids); store.close()"
    )
    with Store.open(config) as first, Store.open(config) as second:
        second.track([Event("ann", "i1", "click", T)])
        other = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, cwd=ROOT
        )
        assert other.stdout.strip() == "i1", other.stderr
        second.close()
        assert first.user("ann").item_ids == ("i1",)


def test_a_follower_finds_a_server_that_starts_later_or_again(tmp_path):
    config = config_of(tmp_path)
    with Store.open(config, start=False) as follower:
        with pytest.raises(Unavailable, match=r"funnel serve features.*store\.url"):
            follower.ping()
        for _ in range(2):
            with Store.open(config):
                follower.ping()
            with pytest.raises(Unavailable):
                follower.ping()


def test_the_server_ends_with_the_process_that_started_it(tmp_path):
    code = (
        "import sys, time; from features.embedded import Embedded\n"
        "print(Embedded(sys.argv[1]).url, flush=True); time.sleep(60)"
    )
    owner = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, cwd=ROOT
    )
    assert owner.stdout is not None
    assert owner.stdout.readline().strip()
    assert held(tmp_path)
    with Store.open(config_of(tmp_path), start=False) as store:
        store.ping()
        os.kill(owner.pid, signal.SIGKILL)
        owner.communicate()
        until(lambda: not held(tmp_path))
        with pytest.raises(Unavailable):
            store.ping()
    assert not (tmp_path / "address").exists()


def test_a_directory_with_a_long_path_works_too(tmp_path):
    path = tmp_path / ("x" * LONGEST_SOCKET)
    with Store.open(config_of(path)) as store:
        store.ping()
        assert (path / "address").read_text().startswith("redis://127.0.0.1:")


def test_what_keeps_the_server_from_starting_is_said(tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(BadConfig, match=r"store\.dir"):
        Embedded(file)
    broken = tmp_path / "broken"
    (broken / "appendonlydir").mkdir(parents=True)
    (broken / "appendonlydir/appendonly.aof.manifest").write_text("nonsense\n")
    with pytest.raises(SetupError, match=r"cannot start.*valkey\.log"):
        Embedded(broken)
    with Embedded(tmp_path / "good") as url:
        assert url == f"unix://{tmp_path}/good/valkey.sock"
