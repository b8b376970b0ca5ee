"""What goes over the wire comes back as it was; what is malformed is named."""

import contextlib
import string
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from funnel import wire
from funnel.columns import DTYPES
from funnel.errors import BadQuery, FunnelError
from funnel.page import Ask, Bucket, Facet, Hit, Page
from funnel.types import Candidates, Filter, History, Query, Step
from protos import funnel_pb2, stage_pb2

PLAIN = ("request_id", "scene", "user_id", "text", "item", "at", "limit", "generation", "variants")

names = st.text(string.ascii_lowercase + ".", min_size=1, max_size=6)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
dtypes = st.sampled_from([np.dtype(name) for name in DTYPES])
int32s = st.integers(-(2**31), 2**31 - 1)
int64s = st.integers(-(2**63), 2**63 - 1)
finite = st.floats(width=32)


def arrays(shape: tuple[int, ...]) -> st.SearchStrategy[np.ndarray]:
    return dtypes.flatmap(lambda dtype: hnp.arrays(dtype, shape))


@st.composite
def candidates(draw: st.DrawFn) -> Candidates:
    n = draw(st.integers(0, 7))
    shapes = st.sampled_from([(n,), (n, 3), (n, 2, 2), (n, 0)])
    return Candidates(
        draw(hnp.arrays(np.int32, n)),
        draw(hnp.arrays(np.float32, n)),
        draw(st.dictionaries(names, shapes.flatmap(arrays), max_size=5)),
        tuple(draw(st.lists(st.builds(Step, texts, counts, counts, finite, texts), max_size=3))),
    )


counts = st.integers(0, 2**32 - 1)
filters = st.builds(
    Filter,
    texts,
    st.lists(texts, max_size=3).map(tuple),
    st.none() | st.floats(),
    st.none() | st.floats(),
    st.booleans(),
)


@st.composite
def queries(draw: st.DrawFn) -> Query:
    h = draw(st.integers(0, 4))
    return Query(
        request_id=draw(texts),
        scene=draw(texts),
        user_id=draw(texts),
        text=draw(texts),
        item=draw(st.integers(-1, 2**31 - 1)),
        at=draw(int64s),
        limit=draw(counts),
        history=History(
            draw(hnp.arrays(np.int32, h)),
            draw(hnp.arrays(np.int8, h)),
            draw(hnp.arrays(np.int64, h)),
        ),
        user=draw(st.dictionaries(names, arrays(()) | arrays((3,)) | arrays((0,)), max_size=4)),
        live=draw(st.dictionaries(names, arrays(()) | arrays((3,)) | arrays((0,)), max_size=4)),
        filters=tuple(draw(st.lists(filters, max_size=3))),
        excluded=draw(hnp.arrays(np.int32, st.integers(0, 4))),
        generation=draw(texts),
        variants=draw(st.dictionaries(texts, texts, max_size=3)),
        trace=draw(counts),
    )


def same_array(a: np.ndarray, b: np.ndarray) -> None:
    assert a.dtype == b.dtype
    assert a.shape == b.shape
    assert a.tobytes() == b.tobytes()  # NaN payloads too


def same(a: Candidates, b: Candidates) -> None:
    same_array(a.rows, b.rows)
    same_array(a.scores, b.scores)
    assert a.columns.keys() == b.columns.keys()
    for name in a.columns:
        same_array(a.columns[name], b.columns[name])
    assert repr(a.steps) == repr(b.steps)


@settings(max_examples=60, deadline=None)
@given(candidates())
def test_candidates_come_back_as_they_were(sent: Candidates) -> None:
    same(wire.read_reply(wire.reply(sent)), sent)


@settings(max_examples=60, deadline=None)
@given(queries(), candidates())
def test_a_query_comes_back_as_it_was(sent: Query, with_it: Candidates) -> None:
    came, candidates = wire.read_request(wire.request(sent, with_it), deadline=5.0)
    same(candidates, with_it)
    for name in PLAIN:
        assert getattr(came, name) == getattr(sent, name)
    assert repr(came.filters) == repr(sent.filters)
    assert came.trace == sent.trace
    assert came.deadline == 5.0
    for name in ("rows", "actions", "times"):
        same_array(getattr(came.history, name), getattr(sent.history, name))
    same_array(came.excluded, sent.excluded)
    assert came.user.keys() == sent.user.keys()
    for name in sent.user:
        same_array(came.user[name], sent.user[name])


def some(n: int = 4) -> Candidates:
    columns = {
        "a": np.arange(n, dtype=np.int8),
        "b": np.full(n, np.nan, np.float32),
        "c": np.arange(2 * n, dtype=np.float64).reshape(n, 2),
    }
    return Candidates(np.arange(n, dtype=np.int32), np.ones(n, np.float32), columns)


def test_what_comes_out_is_aligned_and_read_only() -> None:
    came = wire.read_reply(wire.reply(some(5)))
    for array in [came.rows, came.scores, *came.columns.values()]:
        assert array.flags.aligned
        assert not array.flags.writeable


def test_columns_with_gaps_or_backwards_are_sent_in_order() -> None:
    table = np.arange(12, dtype=np.float32).reshape(4, 3)
    sent = Candidates(np.arange(8, dtype=np.int32)[::2], table[::-1, 1], {"x": table[:, 2]})
    same(wire.read_reply(wire.reply(sent)), sent)


def test_protobuf_itself_reads_what_we_write() -> None:
    message = stage_pb2.StageRequest.FromString(wire.request(Query(text="tea"), some()))
    assert message.query.text == "tea"
    assert message.candidates.count == 4
    assert message.data[:16] == np.arange(4, dtype="<i4").tobytes()
    assert len(message.data) == 4 * (4 + 4 + 1 + 4 + 16)


def test_we_read_what_protobuf_itself_writes_in_any_order_with_unknown_fields() -> None:
    ours = wire.request(Query(text="tea"), some())
    message = stage_pb2.StageRequest.FromString(ours)
    _, came = wire.read_request(message.SerializeToString())
    same(came, some())
    data = stage_pb2.StageRequest(data=message.data).SerializeToString()
    message.ClearField("data")
    unknown = b"\x78\x96\x01" + b"\x7d1234" + b"\x7912345678"  # field 15: varint, 4 and 8 bytes
    _, came = wire.read_request(unknown + data + message.SerializeToString())
    same(came, some())


def test_blocks_that_lie_crooked_are_read_all_the_same() -> None:
    values = np.array([1.5, 2.5], np.float64)
    head = stage_pb2.Candidates(count=2)
    head.columns.add(dtype="int8", names=["odd"], shape=[1])
    head.columns.add(dtype="bool", names=["flag"])
    head.columns.add(dtype="float64", names=["x"])
    data = bytes(16) + b"\1\2" + b"\0\1" + values.tobytes()
    came = wire.read_reply(stage_pb2.StageReply(candidates=head, data=data).SerializeToString())
    assert came.columns["x"].tolist() == [1.5, 2.5]
    assert came.columns["flag"].tolist() == [False, True]
    assert came.columns["x"].flags.aligned


def request(change: str, value: object = None) -> bytes:
    message = stage_pb2.StageRequest.FromString(wire.request(Query(), some()))
    block = message.candidates.columns[0]
    match change:
        case "data":
            message.data = value
        case "count":
            message.candidates.count = value
        case "dtype":
            block.dtype = value
        case "shape":
            block.shape[:] = value
        case "names":
            block.names[:] = value
        case "column data":
            block.data = b"1234"
        case "bool":
            message.candidates.columns.add(dtype="bool", names=["flag"])
            message.data += b"\0\1\2\0"
        case "history":
            message.query.history.rows = value
        case "excluded":
            message.query.excluded = value
        case "user":
            message.query.user.add(dtype="int32", names=["age"], data=value)
        case "user dtype":
            message.query.user.add(dtype=value, names=["age"], data=b"1234")
    return message.SerializeToString()


@pytest.mark.parametrize(
    ("message", "named"),
    [
        (request("data", b""), r"data: 0 bytes; rows and scores of 4 candidates take 32"),
        (request("data", bytes(48)), r"candidates.columns \[c\].*2 float64 values do not make"),
        (request("data", bytes(117)), "data: 117 bytes; .* take 116"),
        (request("count", 2**32 - 1), "of 4294967295 candidates"),
        (request("count", 3), "data: 116 bytes"),
        (request("dtype", "float16"), "unknown dtype 'float16'; known: float32"),
        (request("dtype", "object"), "unknown dtype 'object'"),
        (request("dtype", ""), "unknown dtype ''"),
        (request("shape", [3]), "candidates.columns"),
        (request("shape", [2**32 - 1] * 3), "candidates.columns"),
        (request("shape", [0, 2**32 - 1, 2**32 - 1, 2**32 - 1]), "candidates.columns"),
        (request("names", ["a", "b", "c"]), "candidates.columns"),
        (request("names", ["b"]), r"\[b\]: a name is there twice"),
        (request("column data"), "belong in `data`"),
        (request("bool"), r"\[flag\]: a bool is neither 0 nor 1"),
        (request("history", b"123"), "query.history.rows: 3 bytes"),
        (request("history", b"1234"), "query.history: 1 rows, 0 actions, 0 times"),
        (request("excluded", b"12345"), "query.excluded: 5 bytes"),
        (request("user", b"12345678"), r"query.user \[age\]"),
        (request("user dtype", "float33"), "query.user.*unknown dtype 'float33'"),
        (b"\x0a", "cut short or garbled"),
        (b"\x0a\xff\xff\xff\xff\x0f123", "cut short or garbled"),
        (b"\x0b123", "cut short or garbled"),
        (b"\x0a\x021\xff", "not a funnel.v1.StageRequest"),
    ],
)
def test_a_malformed_message_is_named(message: bytes, named: str) -> None:
    with pytest.raises(BadQuery, match=named):
        wire.read_request(message)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_a_damaged_message_is_read_or_refused_but_never_breaks(data: st.DataObject) -> None:
    whole = bytearray(wire.request(Query(text="tea", excluded=np.arange(3)), some()))
    for place in data.draw(st.lists(st.integers(0, len(whole) - 1), max_size=4)):
        whole[place] = data.draw(st.integers(0, 255))
    with contextlib.suppress(BadQuery):
        wire.read_request(bytes(whole[: data.draw(st.integers(0, len(whole)))]))


def test_a_value_that_no_message_can_hold_is_named() -> None:
    with pytest.raises(BadQuery, match="limit = -3 cannot be sent"):
        wire.request(Query(limit=-3), Candidates.empty())
    with pytest.raises(BadQuery, match=r"text = '\\ud83d' cannot be sent"):
        wire.request(Query(text="\ud83d"), Candidates.empty())
    with pytest.raises(BadQuery, match="limit = 10000000000"):
        wire.page_request(Ask("home", limit=10**10))


def test_columns_that_the_wire_does_not_carry_are_named() -> None:
    rows, scores = np.arange(2, dtype=np.int32), np.ones(2, np.float32)
    with pytest.raises(FunnelError, match="column 'x' is float16"):
        wire.reply(Candidates(rows, scores, {"x": np.ones(2, np.float16)}))
    with pytest.raises(FunnelError, match=r"column 'x' has shape \(3,\) for 2 candidates"):
        wire.reply(Candidates(rows, scores, {"x": np.ones(3)}))


@pytest.mark.parametrize(
    ("ask", "kind"),
    [
        (Ask("search", text="tea", facets=("brand",), trace=1), funnel_pb2.SearchRequest),
        (Ask("search"), funnel_pb2.SearchRequest),
        (Ask("books", text="tea", user_id="u"), funnel_pb2.SearchRequest),
        (Ask("home", user_id="u", limit=-1, at=7, request_id="r"), funnel_pb2.RecommendRequest),
        (Ask("similar", item_id="i", cursor="c"), funnel_pb2.SimilarRequest),
        (Ask("similar"), funnel_pb2.SimilarRequest),
        (Ask("home", filters=(Filter("price", low=1.0),)), funnel_pb2.RecommendRequest),
    ],
)
def test_an_ask_comes_back_as_it_was(ask: Ask, kind: type) -> None:
    message = wire.page_request(ask)
    assert isinstance(message, kind)
    assert wire.ask(kind.FromString(message.SerializeToString())) == ask


def test_requests_without_a_scene_get_the_one_of_their_name() -> None:
    assert wire.ask(funnel_pb2.SearchRequest(query="tea")) == Ask("search", text="tea")
    assert wire.ask(funnel_pb2.RecommendRequest()) == Ask("home")
    assert wire.ask(funnel_pb2.SimilarRequest(item_id="i")) == Ask("similar", item_id="i")


def test_an_item_and_a_text_in_one_ask_are_refused() -> None:
    with pytest.raises(BadQuery, match="neither a query text nor facets"):
        wire.page_request(Ask("similar", item_id="i", text="tea"))


def test_a_page_comes_back_as_it_was() -> None:
    hit = Hit("i1", 0.5, "Tea", {"brand": "x"}, "<b>Tea</b>", "popular", 1, True, {"rank": 0.25})
    hit = replace(hit, price=0.75, propensity=0.125)
    page = Page(
        (hit, Hit("i2", float("-inf"), "紅茶")),
        "r1",
        "g1",
        total=7,
        facets=(
            Facet("brand", (("x", 5), ("y", 2))),
            Facet("price", (), 0.0, 9.5, (Bucket(0.0, 1.0, 3), Bucket(2.5, 9.5, 4))),
        ),
        variants={"layer": "b"},
        cursor="next",
        steps=(Step("recall", 0, 7, 1.5, "late", ("i9: the same product as i1",)),),
        degraded=("recall: late",),
        ms=12.5,
    )
    message = funnel_pb2.Page.FromString(wire.page(page).SerializeToString())
    assert wire.read_page(message) == page
