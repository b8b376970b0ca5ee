"""
Processes: all stages in one, or one each, out of the same config.

A stage process loads the published generation, answers for it and for the one before, and follows
CURRENT. The gateway moves over to a new generation when everyone behind it says that they have it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from funnel.changes import ChangeArchive
from funnel.config import STAGES, Config
from funnel.errors import BadConfig, FunnelError, Unavailable
from funnel.forgotten import ForgottenArchive
from funnel.gateway import Gateway, Serving
from funnel.generation import Generation, current
from funnel.intake import Intake
from funnel.log import EventArchive, RequestLog
from funnel.moment import Moment
from funnel.pipeline import local, pipeline
from funnel.remote import RemoteStage
from funnel.rulebook import RuleBook, rulebooks
from funnel.service import (
    CatalogService,
    FeaturesService,
    FunnelService,
    Host,
    Server,
    Service,
    StageService,
    until_terminated,
)
from funnel.snapshot import published, snapshot
from funnel.stage import Hydrator, Stage
from funnel.types import Array, Query, Rows
from recall.channel import Living
from recall.popular import Popular
from recall.suggest import Suggest

if TYPE_CHECKING:
    from features.sponsors import Sponsors
    from features.store import Store
    from funnel.live import LiveGenerations

log = logging.getLogger(__name__)
SERVICES = (*STAGES, "features", "gateway")
CHANNEL_THREADS = 4
POLL_S = 1.0
CATCH_UP_S = 10.0
SLACK_S = 0.005  # a remote stage may answer this much after its budget: the caller's wait is exact

Stages = Mapping[str, Mapping[str, Stage]]  # scene -> stage name -> stage


def run(name: str, config: Config) -> None:
    """Serves until SIGTERM or SIGINT. `name` is a service, or `all` for everything in here."""
    if name not in (*SERVICES, "all"):
        raise BadConfig(f"unknown service '{name}'; known: {', '.join(SERVICES)}, all")
    with ExitStack() as stack:
        servers = opened(name, config, stack)
        for server in servers:
            server.start()
            log.warning("%s serves on %s", name, server.address)
        until_terminated(servers, config.serve.drain_s)


def opened(name: str, config: Config, stack: ExitStack) -> list[Server]:
    """The servers of a process, not yet started. What they need is closed with the `stack`."""
    if name in STAGES:
        return [_stage(name, config, stack)]
    if name == "features":
        return [_features(config, stack)]
    if name == "gateway":
        return [_gateway(config, stack, remote(config, stack), _generations(config, stack))]
    features = _features(config, stack)
    generations = _generations(config, stack)
    stages = here(config, STAGES, stack, generations)
    gateway = _gateway(config, stack, (lambda id: stages(id), lambda id: True), generations)
    return [features, gateway]


def here(
    config: Config, names: tuple[str, ...], stack: ExitStack, generations: LiveGenerations
) -> Callable[[str], dict[str, dict[str, Stage]]]:
    """Loads stages of a generation into this process: scene -> stage name -> stage."""
    pool = stack.enter_context(ThreadPoolExecutor(CHANNEL_THREADS, "channel"))
    draws = any(s.rerank.explore.method == "thompson" for s in config.scenes.values())
    counting = ({"prerank", "rank", "rerank"} if draws else {"prerank", "rank"}) & set(names)
    books = rulebooks(config) if "rerank" in names else {}
    if books:
        _watched(books, stack)
    store = _store(config, stack, start=False) if counting else None

    def load(id: str) -> dict[str, dict[str, Stage]]:
        held = generations.open(id)
        counters: Hydrator = Nothing()
        if store:
            counters = _counters(held.generation, config, store, stack)
        follow = held.follower.upserts.append
        stages = local(held.generation, config, counters, names, pool, follow, books)
        held.follower.start(CATCH_UP_S)
        return stages

    return load


def _watched(books: Mapping[str, RuleBook], stack: ExitStack) -> None:
    """Looks every second whether the rules have changed."""
    closed = threading.Event()

    def work() -> None:
        while not closed.wait(POLL_S):
            for book in books.values():
                book.refresh()

    thread = threading.Thread(target=work, name="rules", daemon=True)
    thread.start()
    stack.callback(thread.join)
    stack.callback(closed.set)


class Nothing:
    """The counters of a process that scores nothing."""

    def hydrate(self, query: Query, rows: Rows) -> Mapping[str, Array]:
        return {}


def _stage(name: str, config: Config, stack: ExitStack) -> Server:
    load = here(config, (name,), stack, _generations(config, stack))
    host = Host(
        Path(config.build.root),
        lambda id: {scene: stages[name] for scene, stages in load(id).items()},
    )
    address = str(getattr(config.serve, name))
    return Server(address, [StageService(name, host)], config.serve.workers)


def _store(config: Config, stack: ExitStack, start: bool) -> Store:
    from features.store import Store

    return stack.enter_context(Store.open(config, start))


def _generations(config: Config, stack: ExitStack) -> LiveGenerations:
    from funnel.live import LiveGenerations

    generations = LiveGenerations(config, _store(config, stack, start=False))
    stack.callback(generations.close)
    return generations


def _counters(generation: Generation, config: Config, store: Store, stack: ExitStack) -> Hydrator:
    from features.counts import Counts
    from features.replica import Replica

    replica = Replica(
        store,
        Counts.open(generation),
        generation.items,
        config.features.settle_ms,
        generation.manifest.live_position,
    )
    stack.callback(replica.close)
    try:
        replica.wait(store.position(), CATCH_UP_S)
    except Unavailable as error:  # the generation's counters serve until the store is there
        log.warning("item counters are the generation's: %s", error)
    return replica


def _features(config: Config, stack: ExitStack) -> Server:
    from funnel.live import CatalogueLog

    store = _store(config, stack, start=True)
    if not store.seeded():
        snapshot(store, published(config))
    log = CatalogueLog(store, config.store.catalogue_length)
    if config.log.dir:
        archive = EventArchive(config.log.dir, store, config.log.seconds)
        stack.callback(archive.close)
        forgotten = ForgottenArchive(config.log.dir, store, config.log.seconds)
        stack.callback(forgotten.close)
        changes = ChangeArchive(config.log.dir, log, config.log.seconds)
        stack.callback(changes.close)
    services: Sequence[Service] = [
        FeaturesService(store, _sponsors(config, store)),
        CatalogService(log, Columns(config)),
    ]
    return Server(config.serve.features, services, config.serve.workers)


def _sponsors(config: Config, store: Store) -> Sponsors | None:
    """Who charges clicks on ads, where a scene has such."""
    from features.sponsors import Sponsors

    has = any(scene.rerank.ads.method != "off" for scene in config.scenes.values())
    return Sponsors(store) if has else None


class Columns:
    """What the items of the published generation have, for those that come in."""

    def __init__(self, config: Config):
        self.root = Path(config.build.root)
        self._last: tuple[str, Intake] | None = None

    def __call__(self) -> Intake:
        """Raises `BadGeneration` where none is published."""
        id, last = current(self.root), self._last
        if last is None or last[0] != id:
            items = Generation.open(self.root / id, check=False).items
            self._last = last = id, Intake(items.table.schema)
        return last[1]


def remote(
    config: Config, stack: ExitStack
) -> tuple[Callable[[str], Stages], Callable[[str], bool]]:
    """Stages behind their services, and whether all of them have a generation."""
    wait = {
        name: SLACK_S
        + config.serve.budgets
        * max(getattr(scene, name).budget_ms for scene in config.scenes.values())
        / 1e3
        for name in STAGES
    }
    stages = {name: RemoteStage(getattr(config.serve, name), name, wait[name]) for name in STAGES}
    for stage in stages.values():
        stack.callback(stage.close)
    return (
        lambda id: dict.fromkeys(config.scenes, stages),
        lambda id: all(stage.ready(id) for stage in stages.values()),
    )


def _gateway(
    config: Config,
    stack: ExitStack,
    behind: tuple[Callable[[str], Stages], Callable[[str], bool]],
    generations: LiveGenerations,
) -> Server:
    stages, ready = behind
    # Deadlines and the store wait on these threads; the stages' own work has others.
    pool = stack.enter_context(ThreadPoolExecutor(4 * config.serve.workers, "budget"))
    store = _store(config, stack, start=False)
    requests = None
    if config.log.dir:
        requests = RequestLog(config.log.dir, config.log.rows, config.log.seconds)
        stack.callback(requests.close)
    follower = Follower(config, stages, ready, pool, generations)
    moment = Moment(config, store)
    stack.callback(moment.close)
    gateway = Gateway(
        config, follower.first(), store, pool, requests, moment=moment, earlier=generations.held
    )
    stack.callback(follower.close)
    follower.follow(gateway)
    services: Sequence[Service] = [FunnelService(gateway)]
    return Server(config.serve.gateway, services, config.serve.workers)


class Follower:
    """Moves a gateway to what is published, as soon as everyone behind it is ready for it."""

    def __init__(
        self,
        config: Config,
        stages: Callable[[str], Stages],
        ready: Callable[[str], bool],
        pool: Executor,
        generations: LiveGenerations,
    ):
        self.config, self.stages, self.ready, self.pool = config, stages, ready, pool
        self.generations = generations
        self.root = Path(config.build.root)
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    def serving(self, id: str) -> Serving:
        """The funnels of a generation, with the policy of each scene around its stages."""
        held = self.generations.open(id)
        completes = Suggest.open(held.generation)
        if isinstance(completes, Living):
            held.follower.upserts.append(completes.upsert)
        behind = self.stages(id)  # those of this process hear of all changes too
        held.follower.start(CATCH_UP_S)
        popular = Popular.open(held.generation, self.config)
        factor = self.config.serve.budgets
        funnels = {
            scene: pipeline(stages, self.config.scenes[scene], popular, self.pool, factor)
            for scene, stages in behind.items()
        }
        return Serving(held.generation, funnels, completes, held.follower.catch_up)

    def first(self, wait_s: float = 60.0) -> Serving:
        """The published generation. Stages that are not there in time are done without."""
        id = current(self.root)
        due = time.monotonic() + wait_s
        while not self.ready(id) and time.monotonic() < due:
            time.sleep(0.1)
        return self.serving(id)

    def follow(self, gateway: Gateway) -> None:
        self._thread = threading.Thread(target=self._work, args=(gateway,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._closed.set()
        if self._thread is not None:
            self._thread.join()

    def _work(self, gateway: Gateway) -> None:
        failed = ""
        while not self._closed.wait(POLL_S):
            try:
                published = current(self.root)
                if published in (gateway.serving.generation.id, failed):
                    continue
                if self.ready(published):
                    failed = published
                    gateway.serving = self.serving(published)
                    failed = ""
                    log.warning("the gateway moved to generation %s", published)
            except Unavailable as error:
                log.warning("waits with generation %s: %s", gateway.serving.generation.id, error)
            except FunnelError as error:
                log.error("stays with generation %s: %s", gateway.serving.generation.id, error)
