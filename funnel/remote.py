"""
The services from the other side of the wire. A `RemoteStage` is a `Stage` like any other.

Channels are reused by every thread and connect by themselves, again after a failure. Every call has
a timeout, never more than what the query has left.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from features.event import Event, UserHistory
from funnel import wire
from funnel.errors import (
    BadQuery,
    FunnelError,
    Late,
    NotFound,
    SetupError,
    Unavailable,
)
from funnel.intake import REFUSALS, Item, Refused, Upserted, message
from funnel.page import Ask, Page
from funnel.types import Candidates, Query, Suggestion
from protos import (
    catalog_pb2,
    catalog_pb2_grpc,
    features_pb2,
    features_pb2_grpc,
    funnel_pb2,
    funnel_pb2_grpc,
)

if TYPE_CHECKING:
    from features.store import Tracked

MESSAGE_BYTES = 64 << 20
TRACK_EVENTS = 500  # events in a message of the stream
HEALTH_S = 1.0

STUBS: dict[str, Callable[[grpc.Channel], Any]] = {
    "catalog": catalog_pb2_grpc.CatalogStub,
    "features": features_pb2_grpc.FeaturesStub,
    "funnel": funnel_pb2_grpc.FunnelStub,
}
ERRORS: dict[grpc.StatusCode, type[FunnelError]] = {
    grpc.StatusCode[kind.status]: kind
    for kind in (BadQuery, NotFound, SetupError, Unavailable, Late)
}


class Line:
    """A channel to one service; what goes wrong on it comes out as an error of ours."""

    def __init__(self, address: str, who: str):
        self.address = address
        self.who = who
        self.channel = grpc.insecure_channel(
            address,
            options=[
                ("grpc.max_receive_message_length", MESSAGE_BYTES),
                ("grpc.max_send_message_length", MESSAGE_BYTES),
                ("grpc.keepalive_time_ms", 30_000),
                ("grpc.keepalive_timeout_ms", 5_000),
                ("grpc.keepalive_permit_without_calls", 1),
                ("grpc.initial_reconnect_backoff_ms", 100),  # a restarted service is found soon
                ("grpc.min_reconnect_backoff_ms", 500),
                ("grpc.max_reconnect_backoff_ms", 2_000),
            ],
        )

    def call(self, method: Callable[..., Any], request: Any, timeout: float) -> Any:
        if timeout <= 0:
            raise Late(f"no time left to ask {self.who} at {self.address}")
        try:
            return method(request, timeout=timeout)
        except grpc.RpcError as error:
            raise self.translated(error) from error

    def translated(self, error: grpc.RpcError) -> FunnelError:
        """The caller's fault in the service's own words; any other says where it happened."""
        kind = ERRORS.get(error.code(), FunnelError)
        said = error.details() or error.code().name
        if kind in (BadQuery, NotFound):
            return kind(said)
        return kind(f"{self.who} at {self.address}: {said}")

    def serving(self, name: str = "", timeout: float = HEALTH_S) -> bool:
        """Whether the service's health says SERVING; not when it cannot be reached."""
        check = health_pb2_grpc.HealthStub(self.channel).Check
        try:
            reply = check(health_pb2.HealthCheckRequest(service=name), timeout=timeout)
        except grpc.RpcError:
            return False
        return bool(reply.status == health_pb2.HealthCheckResponse.SERVING)

    def close(self) -> None:
        self.channel.close()

    def __enter__(self) -> Line:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def serving(address: str, timeout: float = HEALTH_S) -> bool:
    """Whether everything behind the address is up."""
    with Line(address, "service") as line:
        return line.serving("", timeout)


class RemoteStage:
    """The stage `name` at `address`; `timeout` is the longest wait in seconds."""

    def __init__(self, address: str, name: str, timeout: float):
        self.name = name
        self.timeout = timeout
        self.service = f"funnel.v1.{name.capitalize()}"
        self.line = Line(address, name)
        self.method = self.line.channel.unary_unary(
            f"/{self.service}/Run", None, None
        )  # bytes: `wire`

    def run(self, query: Query, candidates: Candidates) -> Candidates:
        timeout = min(self.timeout, query.deadline - time.monotonic())
        message = wire.request(query, candidates)
        return wire.read_reply(self.line.call(self.method, message, timeout))

    def ready(self, generation: str = "") -> bool:
        """Whether the service answers, for that generation."""
        name = f"{self.service}/{generation}" if generation else self.service
        return self.line.serving(name)

    def close(self) -> None:
        self.line.close()

    def __enter__(self) -> RemoteStage:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class RemoteFeatures:
    """The live store behind the features service, with the methods of `features.store.Store`."""

    def __init__(self, address: str, timeout: float = 5.0):
        self.timeout = timeout
        self.line = Line(address, "features")
        self.stub = STUBS["features"](self.line.channel)

    def track(self, events: Sequence[Event]) -> Tracked:
        """Folds the events in; a timestamp of 0 is the service's now. After `Unavailable` or `Late`
        send all of them again: what was taken before counts once, given event ids."""
        from features.store import Tracked  # needs the store's client, which other callers lack

        reply = self.line.call(self.stub.Track, _batches(events), self.timeout)
        refused = tuple((refusal.index, refusal.reason) for refusal in reply.refused)
        return Tracked(reply.accepted, reply.duplicates, refused)

    def user(self, user_id: str) -> UserHistory:
        request = wire.made(features_pb2.GetUserRequest, user_id=user_id)
        state = self.line.call(self.stub.GetUser, request, self.timeout)
        columns = tuple(state.item_ids), tuple(state.actions), tuple(state.times)
        return UserHistory(*columns, counters=dict(state.counters))

    def delete_user(self, user_id: str) -> bool:
        request = wire.made(features_pb2.DeleteUserRequest, user_id=user_id)
        return bool(self.line.call(self.stub.DeleteUser, request, self.timeout).existed)

    def close(self) -> None:
        self.line.close()

    def __enter__(self) -> RemoteFeatures:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _batches(events: Sequence[Event]) -> Iterator[features_pb2.TrackRequest]:
    # All of them before the first is sent: an event that cannot be must not stop a stream half way.
    messages = [_event(event) for event in events]
    starts = range(0, len(messages), TRACK_EVENTS)
    return iter(
        [
            features_pb2.TrackRequest(events=messages[start : start + TRACK_EVENTS])
            for start in starts
        ]
    )


def _event(event: Event) -> features_pb2.Event:
    return wire.made(
        features_pb2.Event,
        event_id=event.event_id,
        user_id=event.user_id,
        item_id=event.item_id,
        action=event.action,
        timestamp=event.timestamp,
        session_id=event.session_id,
        request_id=event.request_id,
        scene=event.scene,
        query=event.query,
        position=event.position,
        value=event.value,
    )


class RemoteCatalog:
    """Items between generations, behind the features service."""

    def __init__(self, address: str, timeout: float = 60.0):
        self.timeout = timeout
        self.line = Line(address, "the catalogue")
        self.stub = STUBS["catalog"](self.line.channel)

    def upsert(self, items: Iterable[Item]) -> Upserted:
        """Whole items, by column. They are in the log when this returns, and in pages within a
        second. What cannot even be sent is refused like what the service does not take. After
        `Unavailable` or `Late` send all of them again: it does no harm."""
        places: list[int] = []  # of those that are sent
        unsent: list[Refused] = []

        def messages() -> Iterator[catalog_pb2.Item]:
            for place, item in enumerate(items):
                try:
                    made = message(item)
                except BadQuery as error:
                    unsent.append(Refused(place, str(item.get("item_id") or ""), str(error)))
                    continue
                places.append(place)
                yield made

        reply = self.line.call(self.stub.Upsert, messages(), self.timeout)
        refused = [Refused(places[one.index], one.item_id, one.reason) for one in reply.refused]
        refused = sorted([*refused, *unsent], key=lambda one: one.index)
        return Upserted(reply.accepted, tuple(refused[:REFUSALS]), reply.refusals + len(unsent))

    def delete(self, item_ids: Sequence[str]) -> int:
        """How many different ids were named."""
        request = wire.made(catalog_pb2.DeleteItemsRequest, item_ids=item_ids)
        return int(self.line.call(self.stub.Delete, request, self.timeout).deleted)

    def close(self) -> None:
        self.line.close()

    def __enter__(self) -> RemoteCatalog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class RemoteFunnel:
    """The public service: pages."""

    def __init__(self, address: str, timeout: float = 10.0):
        self.timeout = timeout
        self.line = Line(address, "the gateway")
        self.stub = STUBS["funnel"](self.line.channel)

    def page(self, ask: Ask) -> Page:
        """`ask` goes to Similar with an item, to Search with a text, else to Recommend."""
        request = wire.page_request(ask)
        if isinstance(request, funnel_pb2.SearchRequest):
            method = self.stub.Search
        elif isinstance(request, funnel_pb2.SimilarRequest):
            method = self.stub.Similar
        else:
            method = self.stub.Recommend
        return wire.read_page(self.line.call(method, request, self.timeout))

    def search(self, text: str, **asked: Any) -> Page:
        """The other arguments are fields of `Ask`."""
        return self.page(Ask(**{"scene": "search", **asked}, text=text))

    def recommend(self, user_id: str, **asked: Any) -> Page:
        return self.page(Ask(**{"scene": "home", **asked}, user_id=user_id))

    def similar(self, item_id: str, **asked: Any) -> Page:
        return self.page(Ask(**{"scene": "similar", **asked}, item_id=item_id))

    def suggest(self, prefix: str, limit: int = 0) -> list[Suggestion]:
        """What a user who typed `prefix` may mean, best first."""
        request = wire.made(funnel_pb2.SuggestRequest, prefix=prefix, limit=limit)
        found = self.line.call(self.stub.Suggest, request, self.timeout)
        return [Suggestion(s.text, s.score, s.corrected) for s in found.suggestions]

    def close(self) -> None:
        self.line.close()

    def __enter__(self) -> RemoteFunnel:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
