"""
The whole of Funnel at once: simulate (or take) a data set, validate, build, serve every stage as a
process of its own, search, recommend, click, and measure.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import tomli_w
from rich.panel import Panel

from features.event import Event
from funnel.config import Config, merged, parse
from funnel.errors import FunnelError, Unavailable
from funnel.evaluate import evaluate
from funnel.generation import Generation, current
from funnel.page import Ask, Page
from funnel.pipeline import offline, ranked
from funnel.remote import RemoteFeatures, RemoteFunnel
from funnel.show import CONSOLE, evaluation, table
from funnel.show import page as shown

SERVICES = ("features", "recall", "prerank", "rank", "rerank", "gateway")
START_S = 90.0
QUICK = {"build": {"requests": 2500}}  # of a shop that nobody configured: over in minutes
SHOP = {  # what the columns of the simulated shop mean
    "numeric": ["price", "rating"],
    "categorical": ["category", "brand", "colour", "material"],
    "filterable": ["category", "brand", "colour", "material", "price", "rating", "available"],
    "user_categorical": ["interest", "budget", "age"],
    "product_key": "product_key",
}


def run(config: Config, data: Path | None, size: str) -> None:
    """Every step, printed as it goes. Ctrl-C (or DEMO_EXIT=1) ends the services."""
    began = time.monotonic()
    name = data.resolve().name if data else f"world-{size}"
    place = Path("var") / name
    own: dict[str, object] = {} if data else {"data": SHOP}
    config, file = settled(config, place, own)
    data = data or simulated(place / "data", size)
    _title(f"validate · funnel validate {data}")
    _command("validate", str(data), "--config", str(file))
    _title(f"build · funnel build {data} --config {file}")
    _command("build", str(data), "--config", str(file))
    root = Path(config.build.root)
    generation = Generation.open(root / current(root))
    _title("serve · one process a stage")
    with served(config, file, place) as services:
        CONSOLE.print(
            table("", ["service", "address", "MB"], [[s.name, s.address, s.mb()] for s in services])
        )
        with (
            RemoteFunnel(config.serve.gateway) as funnel,
            RemoteFeatures(config.serve.features) as features,
        ):
            _searches(funnel, data, file)
            users = _recommendations(funnel, generation, file)
            if users:
                _clicks(funnel, features, users[0])
        _title(f"evaluate · funnel evaluate {data} --config {file}")
        reports = evaluate(
            generation,
            config,
            data,
            lambda counters: offline(generation, config, counters),
            lambda counters: ranked(generation, config, counters),
            list(config.scenes),
            most=500,
        )
        for report in reports:
            CONSOLE.print(evaluation(report))
        CONSOLE.print(f"all of it took {time.monotonic() - began:.0f} s")
        if os.environ.get("DEMO_EXIT") == "1":
            return
        hints = "\n".join(
            f"funnel {command} --config {file}"
            for command in ('search "…" --trace', "recommend USER", "similar ITEM", "generations")
        )
        CONSOLE.print(Panel(hints, title="still serving; Ctrl-C ends it", expand=False))
        _until_interrupted(services)


def settled(config: Config, place: Path, own: dict[str, object]) -> tuple[Config, Path]:
    """The config with everything it writes below `place`, and the file that says so."""
    table = merged(config.model_dump(mode="json", exclude_none=True), own)  # TOML has no null
    paths = {
        "build": {"root": str(place / "generations")},
        "store": {"dir": str(place / "valkey")},
        "log": {"dir": str(place / "log")},
    }
    table = merged(table, paths)
    place.mkdir(parents=True, exist_ok=True)
    file = place / "funnel.toml"
    file.write_text(tomli_w.dumps(table))
    return parse(table, str(file)), file


def simulated(path: Path, size: str) -> Path:
    """The simulated shop of that size, made once."""
    from funnel.world import simulate

    if not (path / "qrels").is_dir():
        _title(f"simulate · a shop of size '{size}'")
        simulate(path, size)
    return path


@dataclass(frozen=True)
class Service:
    name: str
    address: str
    process: subprocess.Popen[bytes]
    log: Path

    def mb(self) -> int:
        """Resident memory, 0 where the system does not tell."""
        try:
            status = Path(f"/proc/{self.process.pid}/status").read_text()
        except OSError:
            return 0
        lines = [line for line in status.splitlines() if line.startswith("VmRSS")]
        return int(lines[0].split()[1]) // 1024 if lines else 0


@contextmanager
def served(
    config: Config, file: Path, place: Path, names: Sequence[str] = SERVICES
) -> Iterator[list[Service]]:
    """The services, each as a process, all SERVING; ended in reverse order."""
    from funnel.remote import serving

    services: list[Service] = []
    try:
        for name in names:
            log = place / f"{name}.log"
            with log.open("wb") as out:
                services.append(
                    Service(name, getattr(config.serve, name), _started(name, file, out), log)
                )
        for service in services:
            _wait(service, serving)
        yield services
    finally:
        for service in reversed(services):
            service.process.send_signal(signal.SIGTERM)
        for service in services:
            try:
                service.process.wait(config.serve.drain_s + 5)
            except subprocess.TimeoutExpired:
                service.process.kill()


def _started(name: str, file: Path, out: IO[bytes]) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "funnel.cli", "serve", name, "--config", str(file)]
    # A session of its own: Ctrl-C reaches the demo, which then drains the services in order.
    return subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, start_new_session=True)


def _wait(service: Service, serving: object) -> None:
    assert callable(serving)
    due = time.monotonic() + START_S
    while not serving(service.address):
        if service.process.poll() is not None or time.monotonic() > due:
            said = service.log.read_text(errors="replace").strip()[-2000:]
            raise Unavailable(f"the service {service.name} did not start; {service.log}:\n{said}")
        time.sleep(0.1)


def _searches(funnel: RemoteFunnel, data: Path, file: Path) -> None:
    texts = queries(data)
    for place, text in enumerate(texts):
        _title(f'search · funnel search "{text}" --config {file}')
        CONSOLE.print(shown(funnel.page(Ask("search", text=text, limit=8)), place == 0))


def queries(data: Path, most: int = 3) -> list[str]:
    """A few query texts: graded ones where there are any, else what users typed most."""
    import pyarrow.compute as pc
    import pyarrow.dataset as ds

    if (data / "queries").is_dir():
        table = ds.dataset(data / "queries", format="parquet").head(most, columns=["query"])
        return [str(text) for text in table.column("query").to_pylist()]
    if (data / "events").is_dir():
        source = ds.dataset(data / "events", format="parquet")
        if "query" in source.schema.names:
            counts = pc.value_counts(source.to_table(columns=["query"]).column("query").drop_null())
            found = sorted(counts.to_pylist(), key=lambda c: (-c["counts"], c["values"]))
            return [str(c["values"]) for c in found if c["values"]][:most]
    return []


def _recommendations(funnel: RemoteFunnel, generation: Generation, file: Path) -> list[str]:
    users = busiest(generation)
    for place, user in enumerate([*users, "somebody-new"]):
        _title(f"recommend · funnel recommend {user} --config {file}")
        CONSOLE.print(shown(funnel.page(Ask("home", user_id=user, limit=8)), place == 0))
    return users


def busiest(generation: Generation, most: int = 2) -> list[str]:
    """Users with long, but not the longest, histories."""
    if not generation.has("users"):
        return []
    users = generation.users
    if "times" not in users.table.column_names or not len(users):
        return []
    import pyarrow.compute as pc

    lengths = pc.fill_null(pc.list_value_length(users.table.column("times")), 0).to_numpy()
    middle = np.argsort(np.abs(lengths - np.percentile(lengths, 90)), kind="stable")[:most]
    return users.item_ids(middle)


def _clicks(funnel: RemoteFunnel, features: RemoteFeatures, user: str) -> None:
    """Clicks on things unlike the page, and what the next page made of them."""
    before = funnel.page(Ask("home", user_id=user, limit=20))
    if not before.hits:
        return
    away = funnel.page(Ask("home", limit=20))  # what a stranger sees
    known = {hit.item_id for hit in before.hits}
    start = next((hit.item_id for hit in away.hits if hit.item_id not in known), None)
    start = start or before.hits[-1].item_id
    near = funnel.page(Ask("similar", item_id=start, limit=3))
    wanted = [start, *(hit.item_id for hit in near.hits)]
    _title(f"track · {user} clicks on {', '.join(wanted)}")
    events = [Event(user, item, "click", timestamp=0) for item in wanted]
    told = features.track(events)
    after = funnel.page(Ask("home", user_id=user, limit=20))
    CONSOLE.print(f"{told.accepted} events accepted")
    CONSOLE.print(changed(before, after))


def changed(before: Page, after: Page, most: int = 10) -> object:
    """The page now, and where each item stood before."""
    stood = {hit.item_id: hit.position for hit in before.hits}
    rows = [
        [
            hit.position,
            hit.item_id,
            hit.title,
            hit.attributes.get("category", ""),
            f"was {stood[hit.item_id]}" if hit.item_id in stood else "new",
        ]
        for hit in after.hits[:most]
    ]
    fresh = sum(hit.item_id not in stood for hit in after.hits)
    title = f"the page after the clicks: {fresh} of {len(after.hits)} items are new"
    return table(title, ["#", "item", "title", "category", ""], rows)


def _command(*words: str) -> None:
    """A command of ours as a process: Spark's memory is gone again when it ends."""
    done = subprocess.run([sys.executable, "-m", "funnel.cli", *words], check=False)
    if done.returncode:
        raise FunnelError(f"`funnel {' '.join(words)}` failed with exit code {done.returncode}")


def _until_interrupted(services: Sequence[Service]) -> None:
    try:
        while all(service.process.poll() is None for service in services):
            time.sleep(0.5)
    except KeyboardInterrupt:
        CONSOLE.print("stopping")
        return
    gone = [service for service in services if service.process.poll() is not None]
    raise Unavailable(f"the service {gone[0].name} ended; see {gone[0].log}")


def _title(text: str) -> None:
    CONSOLE.rule(f"[bold]{text}", align="left")
