"""
Queries and candidates on the wire (protos/stage.proto), and pages for people (protos/funnel.proto).

The numbers of candidates travel as little-endian bytes in one field at the end of a message, which
is written beside and read out of what protobuf makes of the rest: 2,000 candidates of 16 columns
are copied once on either side and meet no loop over items. Arrays that come out are read-only views
of the bytes that came in. A message that is not what it says raises `BadQuery` naming the field.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeVar

from google.protobuf.message import DecodeError, Message

from funnel.columns import DTYPES, array_of, blocks, flat, kind_of, unpack
from funnel.errors import BadQuery
from funnel.page import Ask, Bucket, Facet, Hit, Page, Passage
from funnel.types import (
    NO_ITEM,
    All,
    AnyOf,
    Array,
    Candidates,
    Filter,
    History,
    Not,
    Predicate,
    Query,
    Step,
    Suggestion,
)
from protos import funnel_pb2, stage_pb2

M = TypeVar("M")
P = TypeVar("P", bound=Message)
# glibc gives memory back to the system above a threshold that starts below the size of one message:
# 136 page faults a request, half its time. Freeing one large block raises the threshold for good.
bytes(16 << 20)

PageRequest = funnel_pb2.SearchRequest | funnel_pb2.RecommendRequest | funnel_pb2.SimilarRequest


def request(query: Query, candidates: Candidates) -> bytes:
    """A StageRequest. Raises `BadQuery` naming the value that no message can hold (too large, half
    a character)."""
    return _joined(stage_pb2.StageRequest(query=_query(query)), candidates)


def read_request(data: bytes, deadline: float = float("inf")) -> tuple[Query, Candidates]:
    head, values = _split(data)
    message = _parsed(stage_pb2.StageRequest, head)
    return read_query(message.query, deadline), _candidates(message.candidates, values)


def reply(candidates: Candidates) -> bytes:
    """A StageReply."""
    return _joined(stage_pb2.StageReply(), candidates)


def read_reply(data: bytes) -> Candidates:
    head, values = _split(data)
    return _candidates(_parsed(stage_pb2.StageReply, head).candidates, values)


def _joined(
    message: stage_pb2.StageRequest | stage_pb2.StageReply, candidates: Candidates
) -> bytes:
    n, head = len(candidates), message.candidates
    head.count = n
    head.steps.extend([_step(step) for step in candidates.steps])
    parts = [flat(candidates.rows, "int32"), flat(candidates.scores, "float32")]
    packed = blocks(candidates.columns, (n,))
    # The widest type first keeps all of them aligned.
    for dtype, shape in sorted(packed, key=lambda block: -DTYPES[block[0]].itemsize):
        block = packed[dtype, shape]
        head.columns.add(dtype=dtype, names=block, shape=shape)
        parts += [flat(column, dtype) for column in block.values()]
    size = sum([part.nbytes for part in parts])
    return b"".join([message.SerializeToString(), _DATA, _varint(size), *parts])


def _candidates(head: stage_pb2.Candidates, values: memoryview) -> Candidates:
    n, width = head.count, 8 * head.count
    if len(values) < width:
        raise BadQuery(f"data: {len(values)} bytes; rows and scores of {n} candidates take {width}")
    rows = array_of(values[: 4 * n], "int32", "rows")
    scores = array_of(values[4 * n : width], "float32", "scores")
    columns: dict[str, Array] = {}
    for block in head.columns:
        names, shape = list(block.names), (n, *block.shape)
        size = kind_of(block.dtype, "candidates.columns").itemsize * len(names) * math.prod(shape)
        if block.data:
            raise BadQuery(f"candidates.columns {names}: their values belong in `data`")
        part = values[width : width + size]
        unpack(columns, names, block.dtype, part, shape, "candidates.columns")
        width += size
    if len(values) != width:
        raise BadQuery(f"data: {len(values)} bytes; the candidates and their columns take {width}")
    return Candidates(rows, scores, columns, tuple([_read_step(step) for step in head.steps]))


_DATA = bytes([3 << 3 | 2])  # the tag of field 3, of known length


def _split(message: bytes) -> tuple[bytes, memoryview]:
    """The fields of a message without `data`, and `data`, aligned. Protobuf would copy it twice."""
    rest, values, place = b"", b"", 0
    try:
        while place < len(message):
            start = place
            tag, place = _read_varint(message, place)
            if tag & 7 == 2:
                size, place = _read_varint(message, place)
            else:
                size = {0: _read_varint(message, place)[1] - place, 1: 8, 5: 4}[tag & 7]
            end = place + size
            if end > len(message):
                raise IndexError
            if tag == _DATA[0]:
                values = message[place:end]
            else:
                rest += message[start:end]
            place = end
    except (IndexError, KeyError) as error:
        raise BadQuery(f"the message of {len(message)} bytes is cut short or garbled") from error
    return rest, memoryview(values)


def _varint(value: int) -> bytes:
    made = bytearray()
    while value > 127:
        made.append(value & 127 | 128)
        value >>= 7
    made.append(value)
    return bytes(made)


def _read_varint(message: bytes, place: int) -> tuple[int, int]:
    """The number and the place after it."""
    value = shift = 0
    while (byte := message[place]) > 127 and shift < 63:
        value |= (byte & 127) << shift
        place, shift = place + 1, shift + 7
    return value | byte << shift, place + 1


def _parsed(kind: type[P], data: bytes) -> P:
    try:
        return kind.FromString(data)
    except DecodeError as error:
        raise BadQuery(f"not a {kind.DESCRIPTOR.full_name}: {error}") from error


def _query(query: Query) -> stage_pb2.Query:
    history = query.history
    message = made(
        stage_pb2.Query,
        request_id=query.request_id,
        scene=query.scene,
        user_id=query.user_id,
        text=query.text,
        item=None if query.item == NO_ITEM else query.item,
        at=query.at,
        limit=query.limit,
        history=stage_pb2.History(
            rows=flat(history.rows, "int32").tobytes(),
            actions=flat(history.actions, "int8").tobytes(),
            times=flat(history.times, "int64").tobytes(),
        )
        if len(history)
        else None,
        filters=[_filter(condition) for condition in query.filters],
        excluded=flat(query.excluded, "int32").tobytes(),
        generation=query.generation,
        variants=query.variants,
        trace=query.trace,
        sort=query.sort,
    )
    for columns, packed in ((query.user, message.user), (query.live, message.live)):
        for (dtype, shape), block in blocks(columns, ()).items():
            values = b"".join([flat(column, dtype) for column in block.values()])
            packed.add(dtype=dtype, names=block, shape=shape, data=values)
    return message


def read_query(message: stage_pb2.Query, deadline: float = float("inf")) -> Query:
    """The deadline is an instant of this process's clock: the call's, not the message's."""
    past = message.history
    rows = array_of(past.rows, "int32", "query.history.rows")
    actions = array_of(past.actions, "int8", "query.history.actions")
    times = array_of(past.times, "int64", "query.history.times")
    if not len(rows) == len(actions) == len(times):
        lengths = f"{len(rows)} rows, {len(actions)} actions, {len(times)} times"
        raise BadQuery(f"query.history: {lengths}; they must be as many")
    user, live = dict[str, Array](), dict[str, Array]()
    for columns, packed, where in (
        (user, message.user, "query.user"),
        (live, message.live, "query.live"),
    ):
        for block in packed:
            shape = tuple(block.shape)
            unpack(columns, list(block.names), block.dtype, block.data, shape, where)
    return Query(
        request_id=message.request_id,
        scene=message.scene,
        user_id=message.user_id,
        text=message.text,
        item=message.item if message.HasField("item") else NO_ITEM,
        at=message.at,
        limit=message.limit,
        history=History(rows, actions, times),
        user=user,
        live=live,
        filters=tuple([_read_filter(condition) for condition in message.filters]),
        excluded=array_of(message.excluded, "int32", "query.excluded"),
        generation=message.generation,
        variants=dict(message.variants),
        trace=message.trace,
        sort=message.sort,
        deadline=deadline,
    )


def _filter(predicate: Predicate) -> stage_pb2.Filter:
    match predicate:
        case Filter(name, any_of, low, high, exclude):
            fields = {"any_of": any_of, "low": low, "high": high, "exclude": exclude}
            return made(stage_pb2.Filter, attribute=name, **fields)
        case All(parts):
            return stage_pb2.Filter(all=stage_pb2.Filters(parts=map(_filter, parts)))
        case AnyOf(parts):
            return stage_pb2.Filter(any=stage_pb2.Filters(parts=map(_filter, parts)))
        case Not(part):
            return made(stage_pb2.Filter, **{"not": _filter(part)})


def _read_filter(message: stage_pb2.Filter) -> Predicate:
    match message.WhichOneof("group"):
        case "all":
            return All(tuple(map(_read_filter, message.all.parts)))
        case "any":
            return AnyOf(tuple(map(_read_filter, message.any.parts)))
        case "not":
            return Not(_read_filter(getattr(message, "not")))
    return Filter(
        message.attribute,
        tuple(message.any_of),
        message.low if message.HasField("low") else None,
        message.high if message.HasField("high") else None,
        message.exclude,
    )


def _step(step: Step) -> stage_pb2.Step:
    return stage_pb2.Step(
        name=step.name,
        seen=step.seen,
        kept=step.kept,
        ms=step.ms,
        fault=step.fault,
        notes=step.notes,
    )


def _read_step(message: stage_pb2.Step) -> Step:
    notes = tuple(message.notes)
    return Step(message.name, message.seen, message.kept, message.ms, message.fault, notes)


def ask(message: PageRequest) -> Ask:
    """What a caller of the public service wants."""
    search = isinstance(message, funnel_pb2.SearchRequest)
    similar = isinstance(message, funnel_pb2.SimilarRequest)
    return Ask(
        scene=message.scene or ("search" if search else "similar" if similar else "home"),
        user_id=message.user_id,
        text=message.query if isinstance(message, funnel_pb2.SearchRequest) else "",
        item_id=message.item_id if isinstance(message, funnel_pb2.SimilarRequest) else "",
        filters=tuple(map(_read_filter, message.filters)),
        where=message.where,
        sort=message.sort,
        blocked=tuple(message.blocked),
        facets=tuple(message.facets) if isinstance(message, funnel_pb2.SearchRequest) else (),
        limit=message.limit,
        cursor=message.cursor,
        trace=message.trace,
        request_id=message.request_id,
        at=message.at,
    )


def page_request(asked: Ask) -> PageRequest:
    """The request that `ask` reads back: a search, something similar, or a recommendation."""
    shared: dict[str, Any] = {
        "scene": asked.scene,
        "user_id": asked.user_id,
        "filters": [_filter(condition) for condition in asked.filters],
        "where": asked.where,
        "sort": asked.sort,
        "blocked": asked.blocked,
        "limit": asked.limit,
        "cursor": asked.cursor,
        "trace": asked.trace,
        "request_id": asked.request_id,
        "at": asked.at,
    }
    similar = bool(asked.item_id) or asked.scene == "similar"
    if similar and (asked.text or asked.facets):
        raise BadQuery(f"item_id '{asked.item_id}' goes with neither a query text nor facets")
    if similar:
        return made(funnel_pb2.SimilarRequest, item_id=asked.item_id, **shared)
    if asked.text or asked.facets or asked.scene == "search":
        return made(funnel_pb2.SearchRequest, query=asked.text, facets=list(asked.facets), **shared)
    return made(funnel_pb2.RecommendRequest, **shared)


def suggestions(found: Sequence[Suggestion]) -> funnel_pb2.Suggestions:
    return funnel_pb2.Suggestions(
        suggestions=[
            funnel_pb2.Suggestion(text=s.text, score=s.score, corrected=s.corrected) for s in found
        ]
    )


def page(made: Page) -> funnel_pb2.Page:
    return funnel_pb2.Page(
        hits=[_hit(hit) for hit in made.hits],
        facets=[_facet(facet) for facet in made.facets],
        total=made.total,
        request_id=made.request_id,
        generation=made.generation,
        variants=made.variants,
        cursor=made.cursor,
        steps=[_step(step) for step in made.steps],
        degraded=made.degraded,
        ms=made.ms,
    )


def read_page(message: funnel_pb2.Page) -> Page:
    return Page(
        hits=tuple(map(_read_hit, message.hits)),
        request_id=message.request_id,
        generation=message.generation,
        total=message.total,
        facets=tuple(map(_read_facet, message.facets)),
        variants=dict(message.variants),
        cursor=message.cursor,
        steps=tuple(map(_read_step, message.steps)),
        degraded=tuple(message.degraded),
        ms=message.ms,
    )


def _hit(hit: Hit) -> funnel_pb2.Hit:
    return funnel_pb2.Hit(
        item_id=hit.item_id,
        score=hit.score,
        title=hit.title,
        attributes=hit.attributes,
        highlight=hit.highlight,
        why=hit.why,
        position=hit.position,
        sponsored=hit.sponsored,
        evidence=hit.evidence,
        passage=_passage(hit.passage) if hit.passage is not None else None,
        price=hit.price,
        propensity=hit.propensity,
    )


def _passage(passage: Passage) -> funnel_pb2.Passage:
    return funnel_pb2.Passage(
        passage_id=passage.passage_id,
        parent_id=passage.parent_id,
        start=passage.start,
        end=passage.end,
        text=passage.text,
        before=map(_passage, passage.before),
        after=map(_passage, passage.after),
    )


def _read_passage(message: funnel_pb2.Passage) -> Passage:
    return Passage(
        message.passage_id,
        message.parent_id,
        message.start if message.HasField("start") else None,
        message.end if message.HasField("end") else None,
        message.text,
        tuple(map(_read_passage, message.before)),
        tuple(map(_read_passage, message.after)),
    )


def _read_hit(message: funnel_pb2.Hit) -> Hit:
    return Hit(
        message.item_id,
        message.score,
        message.title,
        dict(message.attributes),
        message.highlight,
        message.why,
        message.position,
        message.sponsored,
        dict(message.evidence),
        _read_passage(message.passage) if message.HasField("passage") else None,
        message.price,
        message.propensity,
    )


def _facet(facet: Facet) -> funnel_pb2.Facet:
    return funnel_pb2.Facet(
        attribute=facet.attribute,
        values=[funnel_pb2.FacetValue(value=value, count=count) for value, count in facet.values],
        min=facet.low,
        max=facet.high,
        buckets=[
            funnel_pb2.FacetBucket(low=bucket.low, high=bucket.high, count=bucket.count)
            for bucket in facet.buckets
        ],
    )


def _read_facet(message: funnel_pb2.Facet) -> Facet:
    return Facet(
        message.attribute,
        tuple((value.value, value.count) for value in message.values),
        message.min if message.HasField("min") else None,
        message.max if message.HasField("max") else None,
        tuple(Bucket(bucket.low, bucket.high, bucket.count) for bucket in message.buckets),
    )


def made(kind: type[M], **fields: Any) -> M:
    """The message, or an error that names the value that it cannot hold."""
    try:
        return kind(**fields)
    except (ValueError, TypeError) as error:
        for name, value in fields.items():
            try:
                kind(**{name: value})
            except (ValueError, TypeError) as said:
                shown = ascii(value)[:80]
                raise BadQuery(f"{name} = {shown} cannot be sent: {said}") from error
        raise
