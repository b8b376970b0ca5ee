"""Services on a port of this machine, and what happens when something goes wrong."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from features.event import Event, UserHistory
from features.store import Tracked
from funnel.errors import (
    BadConfig,
    BadData,
    BadGeneration,
    BadQuery,
    FunnelError,
    Late,
    NotFound,
    Occupied,
    SetupError,
    Unavailable,
)
from funnel.generation import CURRENT
from funnel.host import Host
from funnel.page import Ask, Hit, Page
from funnel.remote import RemoteFeatures, RemoteFunnel, RemoteStage, serving
from funnel.service import FeaturesService, FunnelService, Server, StageService
from funnel.stage import Chain, Cut, Stage
from funnel.types import Candidates, History, Query, Suggestion
from protos import features_pb2, features_pb2_grpc, funnel_pb2, funnel_pb2_grpc

ROOT = Path(__file__).parents[2]


def candidates(n: int, seed: int = 1) -> Candidates:
    random = np.random.default_rng(seed)
    columns = {
        "recall.bm25": np.where(random.random(n) < 0.3, np.nan, random.random(n)),
        "embedding": random.normal(size=(n, 4)).astype(np.float32),
        "seen": random.random(n) < 0.5,
    }
    return Candidates(np.arange(n, dtype=np.int32), random.random(n).astype(np.float32), columns)


@dataclass(frozen=True)
class Marked:
    """Adds a column that says which generation answered and what it was asked."""

    generation: str
    error: Exception | None = None
    wait: float = 0.0

    def run(self, query: Query, candidates: Candidates) -> Candidates:
        if self.error:
            raise self.error
        time.sleep(self.wait)
        n = len(candidates)
        left = query.deadline - time.monotonic()
        columns = {
            f"by.{self.generation}": np.zeros(n, np.float32),
            "left": np.full(n, left),
            "history": np.full(n, query.history.rows.sum()),
        }
        return candidates.with_columns(columns)


@contextmanager
def hosted(
    root: Path, load: Callable[[str], dict[str, Stage]], name: str = "rank", poll_s: float = 0.02
) -> Iterator[RemoteStage]:
    if not (root / CURRENT).exists():
        (root / CURRENT).write_text("g1\n")
    service = StageService(name, Host(root, load, poll_s))
    with Server("localhost:0", [service]) as server, RemoteStage(server.address, name, 5.0) as far:
        yield far


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not true():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.01)


@pytest.mark.parametrize("name", ["recall", "prerank", "rank", "rerank"])
@pytest.mark.parametrize("n", [0, 1, 5, 200])
def test_a_stage_behind_a_server_gives_the_same_answer(tmp_path: Path, name: str, n: int) -> None:
    local = Chain([Cut(50), Cut(20)])
    query = Query(text="tea", history=History(np.arange(3), np.zeros(3), np.arange(3)))
    with hosted(tmp_path, lambda id: {"home": local}, name) as far:
        near, came = local.run(query, candidates(n)), far.run(query, candidates(n))
    assert np.array_equal(near.rows, came.rows)
    assert np.array_equal(near.scores, came.scores)
    assert near.columns.keys() == came.columns.keys()
    for column in near.columns:
        assert near.columns[column].tobytes() == came.columns[column].tobytes()


@pytest.mark.parametrize(
    ("raised", "kind", "said"),
    [
        (BadQuery("limit = -1 is negative"), BadQuery, "^limit = -1 is negative$"),
        (NotFound("no item 'x'"), NotFound, "^no item 'x'$"),
        (Unavailable("the index is loading"), Unavailable, "rank at .*: the index is loading"),
        (Late("no time"), Late, "rank at localhost:.*: no time"),
        (BadData("a column is missing"), SetupError, "a column is missing"),
        (FunnelError("odd"), FunnelError, "odd"),
        (BadQuery("紅" * 5000), BadQuery, "^紅{600}$"),  # cut: it travels in a header
    ],
)
def test_errors_keep_their_kind_across_the_wire(
    tmp_path: Path, raised: Exception, kind: type[Exception], said: str
) -> None:
    with hosted(tmp_path, lambda id: {"home": Marked(id, raised)}) as far:
        with pytest.raises(kind, match=said) as told:
            far.run(Query(), candidates(2))
        assert type(told.value) is kind


def test_an_unexpected_error_is_logged_here_and_not_shown_there(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    secret = ValueError("/secret/path")
    with (
        hosted(tmp_path, lambda id: {"home": Marked(id, secret)}) as far,
        pytest.raises(FunnelError, match="ValueError in the service") as told,
    ):
        far.run(Query(), candidates(2))
    assert "secret" not in str(told.value)
    assert "/secret/path" in caplog.text


def test_a_malformed_message_is_the_callers_fault(tmp_path: Path) -> None:
    with (
        hosted(tmp_path, lambda id: {"home": Cut(5)}) as far,
        pytest.raises(BadQuery, match="cut short or garbled"),
    ):
        far.line.call(far.method, b"\x0a\x99", 5.0)


def test_the_deadline_of_the_call_is_the_deadline_of_the_query(tmp_path: Path) -> None:
    with hosted(tmp_path, lambda id: {"home": Marked(id)}) as far:
        own = far.run(Query(), candidates(1)).columns["left"][0]
        assert 0 < own <= 5.1
        shrunk = replace(Query(), deadline=time.monotonic() + 2.0)
        assert 0 < far.run(shrunk, candidates(1)).columns["left"][0] <= 2.1  # gRPC rounds
        with pytest.raises(Late, match="no time left to ask rank"):
            far.run(replace(Query(), deadline=time.monotonic() - 1), candidates(1))


def test_a_stage_that_takes_too_long_is_late(tmp_path: Path) -> None:
    with hosted(tmp_path, lambda id: {"home": Marked(id, wait=1.0)}) as far:
        far.timeout = 0.2
        with pytest.raises(Late, match="rank at localhost"):
            far.run(Query(), candidates(1))


def test_nobody_at_the_address_is_unavailable() -> None:
    with RemoteStage("localhost:1", "rank", 5.0) as far:
        with pytest.raises(Unavailable, match="rank at localhost:1"):
            far.run(Query(), candidates(1))
        assert not far.ready()
    assert not serving("localhost:1")


def test_a_scene_that_is_not_served_is_the_operators_fault(tmp_path: Path) -> None:
    with (
        hosted(tmp_path, lambda id: {"home": Cut(5)}) as far,
        pytest.raises(SetupError, match="scene 'books' is not served here"),
    ):
        far.run(Query(scene="books"), candidates(1))


def by(far: RemoteStage, generation: str = "") -> str:
    found = far.run(Query(generation=generation), candidates(1))
    return next(name[3:] for name in found.columns if name.startswith("by."))


def test_a_new_generation_is_loaded_beside_the_old_one_and_the_last_two_stay(
    tmp_path: Path,
) -> None:
    with hosted(tmp_path, lambda id: {"home": Marked(id)}) as far:
        assert by(far) == by(far, "g1") == "g1"
        assert far.ready("g1")
        assert not far.ready("g2")
        (tmp_path / CURRENT).write_text("g2\n")
        until(lambda: far.ready("g2"))
        assert by(far) == by(far, "g2") == "g2"
        assert by(far, "g1") == "g1"
        (tmp_path / CURRENT).write_text("g3\n")
        until(lambda: far.ready("g3"))
        until(lambda: not far.ready("g1"))
        with pytest.raises(Unavailable, match="g1 is not loaded here; loaded: g2, g3"):
            by(far, "g1")


def test_a_rollback_needs_no_loading(tmp_path: Path) -> None:
    loaded = []

    def load(id: str) -> dict[str, Stage]:
        loaded.append(id)
        return {"home": Marked(id)}

    with hosted(tmp_path, load) as far:
        (tmp_path / CURRENT).write_text("g2\n")
        until(lambda: by(far) == "g2")
        (tmp_path / CURRENT).write_text("g1\n")
        until(lambda: by(far) == "g1")
        assert by(far, "g2") == "g2"
    assert loaded == ["g1", "g2"]


@pytest.mark.parametrize("error", [BadGeneration("items/hash.npy is corrupt"), KeyError("rows")])
def test_a_generation_that_does_not_load_leaves_the_old_one_answering(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    tries = []

    def load(id: str) -> dict[str, Stage]:
        tries.append(id)
        if id == "g2":
            raise error
        return {"home": Marked(id)}

    with hosted(tmp_path, load) as far:
        (tmp_path / CURRENT).write_text("g2\n")
        until(lambda: "stays with generation g1" in caplog.text)
        (tmp_path / CURRENT).unlink()  # nor does a lost pointer stop it
        until(lambda: "no generation is published" in caplog.text)
        assert by(far) == "g1"
        (tmp_path / CURRENT).write_text("g3\n")
        until(lambda: far.ready("g3"))
    assert tries == ["g1", "g2", "g3"]  # the broken one was tried once


def test_without_a_published_generation_nothing_starts(tmp_path: Path) -> None:
    service = StageService("rank", Host(tmp_path, lambda id: {}))
    server = Server("localhost:0", [service])
    with pytest.raises(BadGeneration, match="run `funnel build DATA`"):
        server.start()


def check(address: str, name: str = "") -> int:
    with grpc.insecure_channel(address) as channel:
        request = health_pb2.HealthCheckRequest(service=name)
        return health_pb2_grpc.HealthStub(channel).Check(request, timeout=5).status


def test_health_says_serving_only_when_everything_is_loaded(tmp_path: Path) -> None:
    (tmp_path / CURRENT).write_text("g1")
    go = threading.Event()

    def load(id: str) -> dict[str, Stage]:
        assert go.wait(10)
        return {"home": Cut(5)}

    server = Server("localhost:0", [StageService("rank", Host(tmp_path, load))])
    starting = threading.Thread(target=server.start)
    starting.start()
    up, down = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
    until(lambda: server.address != "")
    try:
        until(lambda: check_or_none(server.address) is not None)
        assert [check(server.address, name) for name in ("", "funnel.v1.Rank")] == [down, down]
        with (
            RemoteStage(server.address, "rank", 5.0) as far,
            pytest.raises(Unavailable, match="no generation is loaded yet"),
        ):
            far.run(Query(), candidates(1))
        go.set()
        starting.join()
        names = ("", "funnel.v1.Rank", "funnel.v1.Rank/g1")
        assert [check(server.address, name) for name in names] == [up] * 3
        assert serving(server.address)
    finally:
        go.set()
        starting.join()
        server.drain(0)


def check_or_none(address: str) -> int | None:
    try:
        return check(address)
    except grpc.RpcError:
        return None


def test_reflection_lists_the_services(tmp_path: Path) -> None:
    (tmp_path / CURRENT).write_text("g1")
    services = [StageService("recall", Host(tmp_path, lambda id: {})), FunnelService(Pages())]
    with Server("localhost:0", services) as server, grpc.insecure_channel(server.address) as line:
        stub = reflection_pb2_grpc.ServerReflectionStub(line)
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        (reply,) = stub.ServerReflectionInfo(iter([request]), timeout=5)
    names = {service.name for service in reply.list_services_response.service}
    assert {"funnel.v1.Recall", "funnel.v1.Funnel", "grpc.health.v1.Health"} <= names


def test_a_port_in_use_is_told_with_the_remedy(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        address = f"127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(Occupied, match=rf"{address}: it is in use.*under \[serve\]"):
            Server(address, [])


def test_two_servers_do_not_share_a_port() -> None:
    with Server("127.0.0.1:0", []) as one, pytest.raises(Occupied, match=one.address):
        Server(one.address, [])


@pytest.mark.parametrize(
    "address", ["nowhere", "127.0.0.1:port", "127.0.0.1:99999", "203.0.113.7:7070"]
)
def test_an_address_that_cannot_be_is_told(address: str) -> None:
    with pytest.raises(BadConfig, match=f"cannot listen on '{address}'"):
        Server(address, [])


def test_a_drain_finishes_open_requests_and_takes_no_new_ones(tmp_path: Path) -> None:
    (tmp_path / CURRENT).write_text("g1")
    host = Host(tmp_path, lambda id: {"home": Marked(id, wait=0.5)})
    server = Server("localhost:0", [StageService("rank", host)]).start()
    with RemoteStage(server.address, "rank", 5.0) as far:
        found: list[Candidates] = []
        call = threading.Thread(target=lambda: found.append(far.run(Query(), candidates(3))))
        call.start()
        time.sleep(0.2)
        server.drain(5.0)
        call.join()
        assert len(found[0]) == 3
        with pytest.raises(Unavailable):
            far.run(Query(), candidates(3))


SCRIPT = """
import sys
from pathlib import Path
from funnel.service import Host, Server, StageService, until_terminated
from funnel.stage import Cut
host = Host(Path(sys.argv[1]), lambda id: {"home": Cut(2)})
server = Server("127.0.0.1:0", [StageService("rank", host)]).start()
print(server.address, flush=True)
until_terminated([server], 2.0)
print("drained", flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_a_process_and_it_ends_well(tmp_path: Path, number: int) -> None:
    (tmp_path / CURRENT).write_text("g1")
    command = [sys.executable, "-c", SCRIPT, str(tmp_path)]
    place = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=place) as process:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        with RemoteStage(address, "rank", 5.0) as far:
            assert len(far.run(Query(), candidates(3))) == 2
        process.send_signal(number)
        assert process.stdout.read().strip() == "drained"
        assert process.wait(10) == 0


class Recorded:
    """A store in memory: enough of one for the service."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.down = False

    def track(self, events: list[Event]) -> Tracked:
        if self.down:
            raise Unavailable("the store at redis://here does not answer")
        bad = tuple((i, "no such action") for i, e in enumerate(events) if e.action == "wave")
        self.events += [e for e in events if e.action != "wave"]
        return Tracked(len(events) - len(bad), 0, bad)

    def user(self, user_id: str) -> UserHistory:
        own = [e for e in self.events if e.user_id == user_id]
        return UserHistory(
            [e.item_id for e in own], [e.action for e in own], [e.timestamp for e in own]
        )

    def delete_user(self, user_id: str) -> bool:
        before = len(self.events)
        self.events = [e for e in self.events if e.user_id != user_id]
        return len(self.events) < before


@pytest.fixture
def features() -> Iterator[tuple[Recorded, RemoteFeatures]]:
    store = Recorded()
    with (
        Server("localhost:0", [FeaturesService(store)]) as server,
        RemoteFeatures(server.address) as far,
    ):
        yield store, far


def test_events_arrive_whole_and_a_user_can_be_read_and_deleted(
    features: tuple[Recorded, RemoteFeatures],
) -> None:
    store, far = features
    event = Event("u", "i", "click", 1000, "e1", "s", "r", "home", "tea", 3, 2.5)
    plain = Event("u", "j", "cart", 2000)
    assert far.track([event, plain]) == Tracked(2, 0, ())
    assert store.events == [event, plain]
    assert far.user("u") == UserHistory(("i", "j"), ("click", "cart"), (1000, 2000))
    assert far.user("stranger") == UserHistory()
    assert far.delete_user("u")
    assert not far.delete_user("u")


def test_an_event_without_a_time_happened_now(features: tuple[Recorded, RemoteFeatures]) -> None:
    store, far = features
    before = time.time_ns() // 1_000_000
    far.track([Event("u", "i", "click", 0)])
    assert before <= store.events[0].timestamp <= time.time_ns() // 1_000_000


def test_refusals_name_their_place_in_the_whole_stream(
    features: tuple[Recorded, RemoteFeatures],
) -> None:
    _, far = features
    events = [Event("u", f"i{n}", "wave" if n in (3, 1234) else "click", 1) for n in range(1300)]
    told = far.track(events)
    assert told == Tracked(1298, 0, ((3, "no such action"), (1234, "no such action")))
    assert far.track([]) == Tracked()


def test_a_dead_store_is_unavailable(features: tuple[Recorded, RemoteFeatures]) -> None:
    store, far = features
    store.down = True
    with pytest.raises(Unavailable, match="the store at redis://here does not answer"):
        far.track([Event("u", "i", "click", 1)])


def test_what_cannot_be_sent_or_asked_is_told(features: tuple[Recorded, RemoteFeatures]) -> None:
    store, far = features
    with pytest.raises(BadQuery, match="timestamp = 18446744073709551616 cannot be sent"):
        far.track([Event("u", "i", "click", 1), Event("u", "i", "click", 2**64)])
    assert store.events == []
    for ask in (far.user, far.delete_user):
        with pytest.raises(BadQuery, match="user_id is empty"):
            ask("")
        with pytest.raises(BadQuery, match=r"user_id = .* cannot be sent"):
            ask("\udcff")


def test_a_stream_that_breaks_off_is_no_error_of_the_service(
    features: tuple[Recorded, RemoteFeatures], caplog: pytest.LogCaptureFixture
) -> None:
    store, far = features
    sent = threading.Event()

    def broken() -> Iterator[features_pb2.TrackRequest]:
        yield features_pb2.TrackRequest(
            events=[features_pb2.Event(user_id="u", item_id="i", action="click")]
        )
        sent.wait(10)

    call = features_pb2_grpc.FeaturesStub(far.line.channel).Track.future(broken())
    until(lambda: len(store.events) == 1)
    call.cancel()
    sent.set()
    assert far.user("u").item_ids == ("i",)
    assert "a request failed" not in caplog.text


class Pages:
    """A gateway that says what it was asked."""

    def page(self, ask: Ask, deadline: float) -> Page:
        if ask.limit < 0:
            raise BadQuery(f"limit = {ask.limit} is negative")
        title = f"{ask.scene} {ask.text}{ask.item_id}{ask.user_id}"
        seconds = deadline - time.monotonic()
        return Page((Hit("i1", 0.5, title),), ask.request_id, "g1", ms=seconds)

    def suggest(self, prefix: str, limit: int) -> list[Suggestion]:
        return [Suggestion(f"{prefix} {n}", n / 2, n > 0) for n in range(limit)]


def test_suggestions_travel_whole() -> None:
    with (
        Server("localhost:0", [FunnelService(Pages())]) as server,
        RemoteFunnel(server.address, 3.0) as far,
    ):
        assert far.suggest("鞋", 2) == [Suggestion("鞋 0", 0.0), Suggestion("鞋 1", 0.5, True)]


def test_pages_come_from_the_method_that_fits_the_ask() -> None:
    with (
        Server("localhost:0", [FunnelService(Pages())]) as server,
        RemoteFunnel(server.address, 3.0) as far,
    ):
        page = far.search("tea", limit=5)
        assert page.hits[0].title == "search tea"
        assert 0 < page.ms <= 3000
        assert far.recommend("ann").hits[0].title == "home ann"
        assert far.similar("i7").hits[0].title == "similar i7"
        assert far.page(Ask("books", text="tea")).hits[0].title == "books tea"
        with pytest.raises(BadQuery, match=r"^limit = -1 is negative$"):
            far.recommend("ann", limit=-1)
        stub = funnel_pb2_grpc.FunnelStub(far.line.channel)
        with pytest.raises(grpc.RpcError) as told:
            stub.Why(funnel_pb2.WhyRequest(request_id="r"), timeout=5)
        assert told.value.code() == grpc.StatusCode.UNIMPLEMENTED
