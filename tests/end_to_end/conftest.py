"""One small shop, built once: simulated, validated, built and served for all tests in here."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
import tomli_w

from funnel.config import Config, load
from funnel.demo import SHOP, served
from funnel.generation import Generation, current
from funnel.serve import opened
from funnel.world import simulate

SERVICES = ("gateway", "features", "recall", "prerank", "rank", "rerank")


@dataclass(frozen=True)
class Shop:
    """A built data set, with what was printed while it was built."""

    place: Path
    data: Path
    config: Config
    file: Path
    said: dict[str, str]

    @property
    def generation(self) -> Generation:
        root = Path(self.config.build.root)
        return Generation.open(root / current(root))


def funnel(*words: str, code: int = 0) -> str:
    """A command as a user types it; what it printed, of a failed one both streams."""
    done = subprocess.run(
        [sys.executable, "-m", "funnel.cli", *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout if not code else done.stdout + done.stderr


@pytest.fixture(scope="session")
def command() -> Callable[..., str]:
    return funnel


def free_address() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


@pytest.fixture(scope="session")
def configured() -> Callable[..., tuple[Config, Path]]:
    """Writes a config below a place; every service on a free port, times that never run out."""

    def write(place: Path, name: str = "funnel", **sections: object) -> tuple[Config, Path]:
        table = {
            "data": SHOP,
            "build": {"root": str(place / "generations"), "driver_memory": "1g", "requests": 1500},
            # Few trees and epochs: how good an order is, other tests say.
            "prerank": {"trees": 60},
            "rank": {"epochs": 3},
            "store": {"dir": str(place / "valkey"), "timeout_ms": 5000},
            "log": {"dir": str(place / "log"), "seconds": 0.5},
            # Whatever validation says of so few requests: every stage is seen at work.
            "scenes": {"home": {"rank": {"model": "on"}}},
            "serve": {name: free_address() for name in SERVICES} | {"budgets": 200.0},
            **sections,
        }
        file = place / f"{name}.toml"
        file.write_text(tomli_w.dumps(table))
        return load(file), file

    return write


@pytest.fixture(scope="session")
def shop(
    tmp_path_factory: pytest.TempPathFactory, configured: Callable[..., tuple[Config, Path]]
) -> Shop:
    place = tmp_path_factory.mktemp("shop")
    data = place / "data"
    simulate(data, "small", seed=3)
    config, file = configured(place)
    said = {
        "validate": funnel("validate", str(data), "--config", str(file), "--json"),
        "build": funnel("build", str(data), "--config", str(file), "--json"),
    }
    assert json.loads(said["build"])["generation"]
    return Shop(place, data, config, file, said)


@pytest.fixture(scope="session")
def together(shop: Shop) -> Iterator[Config]:
    """Everything served by this process."""
    with ExitStack() as stack:
        for server in opened("all", shop.config, stack):
            stack.callback(server.drain, 0)
            server.start()
        yield shop.config


@pytest.fixture(scope="session")
def apart(
    shop: Shop, together: Config, configured: Callable[..., tuple[Config, Path]]
) -> Iterator[Config]:
    """The same generation and store, each service in a process of its own."""
    place = shop.place / "apart"
    place.mkdir()
    config, file = configured(
        place,
        build={"root": shop.config.build.root},
        store=shop.config.store.model_dump(),
        log={"dir": ""},
    )
    with served(config, file, place):
        yield config
