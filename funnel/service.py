"""
gRPC servers. A servicer is thin: decode, call, encode, translate the error.

`StageService` hosts any of the four stages for the generations that its `Host` has loaded;
`FeaturesService` is the live store, `CatalogService` the log of items, `FunnelService` the gateway.
`Server` puts services behind one address with health (SERVING once everything is loaded),
reflection and a drain.
"""

from __future__ import annotations

import errno
import logging
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from features.event import Event
from funnel import config, wire
from funnel.errors import (
    BadConfig,
    BadQuery,
    FunnelError,
    Late,
    Occupied,
)
from funnel.host import Host as Host
from funnel.host import Tell
from funnel.intake import Intake, item_of, taken_in
from funnel.overlay import Change
from funnel.page import Ask, Page
from funnel.types import Suggestion
from protos import (
    catalog_pb2,
    catalog_pb2_grpc,
    features_pb2,
    features_pb2_grpc,
    funnel_pb2,
    funnel_pb2_grpc,
)

if TYPE_CHECKING:
    from features.sponsors import Sponsors
    from features.store import Store, Tracked
    from funnel.live import CatalogueLog

log = logging.getLogger(__name__)

MESSAGE_BYTES = 64 << 20
DETAIL_CHARACTERS = 600  # an error travels in a header of at most 8 KiB, percent-encoded

STAGES = {name: f"funnel.v1.{name.capitalize()}" for name in config.STAGES}
CLICK = "click"
REGISTER: dict[str, Callable[[Any, grpc.Server], None]] = {
    "catalog": catalog_pb2_grpc.add_CatalogServicer_to_server,
    "features": features_pb2_grpc.add_FeaturesServicer_to_server,
    "funnel": funnel_pb2_grpc.add_FunnelServicer_to_server,
}


class Service(Protocol):
    """What a `Server` puts behind its address."""

    name: str  # as in the protos: funnel.v1.Recall

    def register(self, server: grpc.Server) -> None: ...

    def start(self, tell: Tell) -> None:
        """Loads what it needs; it is SERVING when this returns."""

    def close(self) -> None: ...


class StageService:
    """One of the stage services: `recall`, `prerank`, `rank` or `rerank`."""

    def __init__(self, stage: str, host: Host):
        self.name = STAGES[stage]
        self.host = host
        self.start = host.start
        self.close = host.close

    def register(self, server: grpc.Server) -> None:
        # Messages come and go as bytes: `wire` reads the numbers where they are.
        method = grpc.unary_unary_rpc_method_handler(self.run)
        handler = grpc.method_handlers_generic_handler(self.name, {"Run": method})
        server.add_generic_rpc_handlers((handler,))

    def run(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        with _translated(context):
            query, candidates = wire.read_request(request, _deadline(context))
            stage = self.host.stage(query.generation, query.scene)
            return wire.reply(stage.run(query, candidates))


class FeaturesService(features_pb2_grpc.FeaturesServicer):
    """The click-feature store."""

    name = "funnel.v1.Features"

    def __init__(self, store: Store, sponsors: Sponsors | None = None):
        """With `sponsors` clicks on ads are charged."""
        self.store, self.sponsors = store, sponsors
        self.pool = ThreadPoolExecutor(thread_name_prefix="track")

    def register(self, server: grpc.Server) -> None:
        REGISTER["features"](self, server)

    def start(self, tell: Tell) -> None:
        """Nothing to load."""

    def close(self) -> None:
        """Waits for what is being folded; the store is its opener's to close."""
        self.pool.shutdown()

    def Track(
        self, request_iterator: Iterator[features_pb2.TrackRequest], context: grpc.ServicerContext
    ) -> features_pb2.TrackReply:
        reply, before = features_pb2.TrackReply(), 0
        running: tuple[Future[Tracked], int] | None = None

        def finished(told: Tracked, before: int) -> None:
            reply.accepted += told.accepted
            reply.duplicates += told.duplicates
            for place, reason in told.refused:
                reply.refused.add(index=before + place, reason=reason)

        with _translated(context):
            # While the store folds one part of the stream, the next is read.
            for request in request_iterator:
                events = [_event(event) for event in request.events]
                if running is not None:
                    finished(running[0].result(), running[1])
                running = self.pool.submit(self._track, events), before
                before += len(events)
            if running is not None:
                finished(running[0].result(), running[1])
        return reply

    def _track(self, events: Sequence[Event]) -> Tracked:
        told = self.store.track(events)
        if self.sponsors is not None:
            refused = {place for place, _ in told.refused}
            clicks = [
                (event.request_id, event.item_id)
                for place, event in enumerate(events)
                if event.action == CLICK and event.request_id and place not in refused
            ]
            self.sponsors.charge(clicks)  # an offer is charged once, however often it is clicked
        return told

    def GetUser(
        self, request: features_pb2.GetUserRequest, context: grpc.ServicerContext
    ) -> features_pb2.UserState:
        with _translated(context):
            user_id = _named(request.user_id)
            history = self.store.user(user_id)
            return features_pb2.UserState(
                user_id=user_id,
                item_ids=history.item_ids,
                actions=history.actions,
                times=history.times,
                counters=history.counters,
            )

    def DeleteUser(
        self, request: features_pb2.DeleteUserRequest, context: grpc.ServicerContext
    ) -> features_pb2.DeleteUserReply:
        with _translated(context):
            existed = self.store.delete_user(_named(request.user_id))
            return features_pb2.DeleteUserReply(existed=existed)


class CatalogService(catalog_pb2_grpc.CatalogServicer):
    """Items between generations; `intake` knows the published generation's columns."""

    name = "funnel.v1.Catalog"

    def __init__(self, log: CatalogueLog, intake: Callable[[], Intake]):
        self.log, self.intake = log, intake

    def register(self, server: grpc.Server) -> None:
        REGISTER["catalog"](self, server)

    def start(self, tell: Tell) -> None:
        """Nothing to load."""

    def close(self) -> None:
        """The log's store is its opener's to close."""

    def Upsert(
        self, request_iterator: Iterator[catalog_pb2.Item], context: grpc.ServicerContext
    ) -> catalog_pb2.UpsertReply:
        with _translated(context):
            told = taken_in(
                map(item_of, request_iterator),
                self.intake(),
                lambda items: self.log.append(Change(items)),
            )
        reply = catalog_pb2.UpsertReply(accepted=told.accepted, refusals=told.refusals)
        for one in told.refused:
            reply.refused.add(index=one.index, item_id=one.item_id[:100], reason=one.reason)
        return reply

    def Delete(
        self, request: catalog_pb2.DeleteItemsRequest, context: grpc.ServicerContext
    ) -> catalog_pb2.DeleteReply:
        with _translated(context):
            ids = tuple(dict.fromkeys(request.item_ids))
            if not all(ids):
                raise BadQuery("one of item_ids is empty")
            if ids:
                self.log.append(Change(None, ids))
            return catalog_pb2.DeleteReply(deleted=len(ids))


def _named(user_id: str) -> str:
    if not user_id:
        raise BadQuery("user_id is empty")
    return user_id


def _event(message: features_pb2.Event) -> Event:
    return Event(
        user_id=message.user_id,
        item_id=message.item_id,
        action=message.action,
        timestamp=message.timestamp or time.time_ns() // 1_000_000,
        event_id=message.event_id,
        session_id=message.session_id,
        request_id=message.request_id,
        scene=message.scene,
        query=message.query,
        position=message.position if message.HasField("position") else None,
        value=message.value if message.HasField("value") else None,
    )


class Pages(Protocol):
    """Who answers for the public service: the gateway."""

    def page(self, ask: Ask, deadline: float) -> Page: ...

    def suggest(self, prefix: str, limit: int) -> Sequence[Suggestion]: ...


class FunnelService(funnel_pb2_grpc.FunnelServicer):
    """The public service."""

    name = "funnel.v1.Funnel"

    def __init__(self, gateway: Pages):
        self.gateway = gateway

    def register(self, server: grpc.Server) -> None:
        REGISTER["funnel"](self, server)

    def start(self, tell: Tell) -> None:
        """Nothing to load."""

    def close(self) -> None:
        """The gateway is its maker's to close."""

    def Search(
        self, request: funnel_pb2.SearchRequest, context: grpc.ServicerContext
    ) -> funnel_pb2.Page:
        return self._page(request, context)

    def Recommend(
        self, request: funnel_pb2.RecommendRequest, context: grpc.ServicerContext
    ) -> funnel_pb2.Page:
        return self._page(request, context)

    def Similar(
        self, request: funnel_pb2.SimilarRequest, context: grpc.ServicerContext
    ) -> funnel_pb2.Page:
        return self._page(request, context)

    def Suggest(
        self, request: funnel_pb2.SuggestRequest, context: grpc.ServicerContext
    ) -> funnel_pb2.Suggestions:
        with _translated(context):
            return wire.suggestions(self.gateway.suggest(request.prefix, request.limit))

    def _page(self, request: wire.PageRequest, context: grpc.ServicerContext) -> funnel_pb2.Page:
        with _translated(context):
            return wire.page(self.gateway.page(wire.ask(request), _deadline(context)))


def _deadline(context: grpc.ServicerContext) -> float:
    """The caller's deadline on this process's clock."""
    left = context.time_remaining()
    if left <= 0:
        raise Late("the caller's deadline passed before the request was looked at")
    return time.monotonic() + left


@contextmanager
def _translated(context: grpc.ServicerContext) -> Iterator[None]:
    """Errors become status codes. What nobody expected is logged here and not shown there."""
    try:
        yield
        return
    except grpc.RpcError:  # the caller went away
        raise
    except FunnelError as error:
        code, said = grpc.StatusCode[error.status], str(error)
    except Exception as error:
        log.exception("a request failed")
        code = grpc.StatusCode.INTERNAL
        said = f"{type(error).__name__} in the service; its log has the traceback"
    context.abort(code, said[:DETAIL_CHARACTERS])


@dataclass(frozen=True)
class _Health:
    """Who is SERVING, told by names."""

    servicer: health.HealthServicer

    def set(self, name: str, up: bool) -> None:
        status = health_pb2.HealthCheckResponse
        self.servicer.set(name, status.SERVING if up else status.NOT_SERVING)


class Server:
    """Services behind one address; port 0 takes a free one. `address` says which it became.

    Listens from `start` on, and is SERVING when `start` returns. Raises `Occupied` or `BadConfig`
    when the address cannot be had.
    """

    def __init__(self, address: str, services: Sequence[Service], workers: int = 8):
        self.services = services
        self.health = _Health(health.HealthServicer())
        self.server = grpc.server(
            ThreadPoolExecutor(workers, "rpc"),
            options=[
                ("grpc.so_reuseport", 0),  # or two servers would share a port without a word
                ("grpc.max_receive_message_length", MESSAGE_BYTES),
                ("grpc.max_send_message_length", MESSAGE_BYTES),
                ("grpc.keepalive_permit_without_calls", 1),
                # Clients ask every 30 s whether the server is there (funnel/remote.py); by default
                # it hangs up on who asks more often than every five minutes.
                ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
            ],
        )
        for service in services:
            service.register(self.server)
        names = [service.name for service in services]
        for name in ("", *names):
            self.health.set(name, False)
        health_pb2_grpc.add_HealthServicer_to_server(self.health.servicer, self.server)
        own = (health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection([*names, *own], self.server)
        self.address = self._bind(address)

    def _bind(self, address: str) -> str:
        _check_free(address)
        try:
            port = self.server.add_insecure_port(address)
        except RuntimeError as error:
            raise Occupied(_occupied(address, str(error))) from error
        return f"{address.rpartition(':')[0]}:{port}"

    def start(self) -> Server:
        self.server.start()
        try:
            for service in self.services:
                service.start(self._teller(service.name))
                self.health.set(service.name, True)
        except BaseException:
            self.drain(0)
            raise
        self.health.set("", True)
        return self

    def _teller(self, name: str) -> Tell:
        return lambda generation, there: self.health.set(f"{name}/{generation}", there)

    def drain(self, seconds: float) -> None:
        """NOT_SERVING, no new requests, and `seconds` for the open ones."""
        self.health.servicer.enter_graceful_shutdown()
        self.server.stop(seconds).wait()
        for service in self.services:
            service.close()

    def __enter__(self) -> Server:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.drain(0)


def until_terminated(servers: Sequence[Server], drain_s: float) -> None:
    """Waits for SIGTERM or SIGINT, then drains. Only the main thread can wait for signals."""
    ended = threading.Event()
    before = {
        number: signal.signal(number, lambda *_: ended.set())
        for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        ended.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    threads = [threading.Thread(target=server.drain, args=(drain_s,)) for server in servers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _check_free(address: str) -> None:
    """Finds out why an address cannot be had, which gRPC does not tell."""
    host, _, port = address.rpartition(":")
    if address.startswith("unix:") or port == "0":
        return
    try:
        if not 0 < int(port) < 1 << 16:
            raise ValueError(f"there is no port {port}")
        places = socket.getaddrinfo(host.strip("[]") or None, int(port), type=socket.SOCK_STREAM)
    except (OSError, ValueError) as error:
        raise BadConfig(f"cannot listen on '{address}': {error}; write it as host:port") from error
    wrong: list[OSError] = []
    for kind, _, _, _, place in places:
        try:
            with socket.socket(kind, socket.SOCK_STREAM) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(place)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise Occupied(_occupied(address, "it is in use")) from error
            wrong.append(error)
    if len(wrong) == len(places):
        raise BadConfig(f"cannot listen on '{address}': {wrong[0]}; name an address of this host")


def _occupied(address: str, reason: str) -> str:
    return (
        f"cannot listen on {address}: {reason}. Stop what listens there, "
        "or set another address under [serve] in the config (port 0 takes a free one)"
    )
