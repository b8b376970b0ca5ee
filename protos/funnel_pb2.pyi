from protos import stage_pb2 as _stage_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class SearchRequest(_message.Message):
    __slots__ = ("user_id", "query", "filters", "facets", "limit", "cursor", "trace", "request_id", "at", "scene", "where", "sort", "blocked")
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    QUERY_FIELD_NUMBER: _ClassVar[int]
    FILTERS_FIELD_NUMBER: _ClassVar[int]
    FACETS_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    CURSOR_FIELD_NUMBER: _ClassVar[int]
    TRACE_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    SCENE_FIELD_NUMBER: _ClassVar[int]
    WHERE_FIELD_NUMBER: _ClassVar[int]
    SORT_FIELD_NUMBER: _ClassVar[int]
    BLOCKED_FIELD_NUMBER: _ClassVar[int]
    user_id: str
    query: str
    filters: _containers.RepeatedCompositeFieldContainer[_stage_pb2.Filter]
    facets: _containers.RepeatedScalarFieldContainer[str]
    limit: int
    cursor: str
    trace: int
    request_id: str
    at: int
    scene: str
    where: str
    sort: str
    blocked: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, user_id: _Optional[str] = ..., query: _Optional[str] = ..., filters: _Optional[_Iterable[_Union[_stage_pb2.Filter, _Mapping]]] = ..., facets: _Optional[_Iterable[str]] = ..., limit: _Optional[int] = ..., cursor: _Optional[str] = ..., trace: _Optional[int] = ..., request_id: _Optional[str] = ..., at: _Optional[int] = ..., scene: _Optional[str] = ..., where: _Optional[str] = ..., sort: _Optional[str] = ..., blocked: _Optional[_Iterable[str]] = ...) -> None: ...

class RecommendRequest(_message.Message):
    __slots__ = ("user_id", "scene", "filters", "limit", "cursor", "trace", "request_id", "at", "where", "sort", "blocked")
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    SCENE_FIELD_NUMBER: _ClassVar[int]
    FILTERS_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    CURSOR_FIELD_NUMBER: _ClassVar[int]
    TRACE_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    WHERE_FIELD_NUMBER: _ClassVar[int]
    SORT_FIELD_NUMBER: _ClassVar[int]
    BLOCKED_FIELD_NUMBER: _ClassVar[int]
    user_id: str
    scene: str
    filters: _containers.RepeatedCompositeFieldContainer[_stage_pb2.Filter]
    limit: int
    cursor: str
    trace: int
    request_id: str
    at: int
    where: str
    sort: str
    blocked: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, user_id: _Optional[str] = ..., scene: _Optional[str] = ..., filters: _Optional[_Iterable[_Union[_stage_pb2.Filter, _Mapping]]] = ..., limit: _Optional[int] = ..., cursor: _Optional[str] = ..., trace: _Optional[int] = ..., request_id: _Optional[str] = ..., at: _Optional[int] = ..., where: _Optional[str] = ..., sort: _Optional[str] = ..., blocked: _Optional[_Iterable[str]] = ...) -> None: ...

class SimilarRequest(_message.Message):
    __slots__ = ("item_id", "user_id", "filters", "limit", "cursor", "trace", "request_id", "at", "scene", "where", "sort", "blocked")
    ITEM_ID_FIELD_NUMBER: _ClassVar[int]
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    FILTERS_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    CURSOR_FIELD_NUMBER: _ClassVar[int]
    TRACE_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    SCENE_FIELD_NUMBER: _ClassVar[int]
    WHERE_FIELD_NUMBER: _ClassVar[int]
    SORT_FIELD_NUMBER: _ClassVar[int]
    BLOCKED_FIELD_NUMBER: _ClassVar[int]
    item_id: str
    user_id: str
    filters: _containers.RepeatedCompositeFieldContainer[_stage_pb2.Filter]
    limit: int
    cursor: str
    trace: int
    request_id: str
    at: int
    scene: str
    where: str
    sort: str
    blocked: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, item_id: _Optional[str] = ..., user_id: _Optional[str] = ..., filters: _Optional[_Iterable[_Union[_stage_pb2.Filter, _Mapping]]] = ..., limit: _Optional[int] = ..., cursor: _Optional[str] = ..., trace: _Optional[int] = ..., request_id: _Optional[str] = ..., at: _Optional[int] = ..., scene: _Optional[str] = ..., where: _Optional[str] = ..., sort: _Optional[str] = ..., blocked: _Optional[_Iterable[str]] = ...) -> None: ...

class Hit(_message.Message):
    __slots__ = ("item_id", "score", "title", "attributes", "highlight", "why", "position", "sponsored", "evidence", "passage", "price", "propensity")
    class AttributesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    class EvidenceEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    ITEM_ID_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    TITLE_FIELD_NUMBER: _ClassVar[int]
    ATTRIBUTES_FIELD_NUMBER: _ClassVar[int]
    HIGHLIGHT_FIELD_NUMBER: _ClassVar[int]
    WHY_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    SPONSORED_FIELD_NUMBER: _ClassVar[int]
    EVIDENCE_FIELD_NUMBER: _ClassVar[int]
    PASSAGE_FIELD_NUMBER: _ClassVar[int]
    PRICE_FIELD_NUMBER: _ClassVar[int]
    PROPENSITY_FIELD_NUMBER: _ClassVar[int]
    item_id: str
    score: float
    title: str
    attributes: _containers.ScalarMap[str, str]
    highlight: str
    why: str
    position: int
    sponsored: bool
    evidence: _containers.ScalarMap[str, float]
    passage: Passage
    price: float
    propensity: float
    def __init__(self, item_id: _Optional[str] = ..., score: _Optional[float] = ..., title: _Optional[str] = ..., attributes: _Optional[_Mapping[str, str]] = ..., highlight: _Optional[str] = ..., why: _Optional[str] = ..., position: _Optional[int] = ..., sponsored: _Optional[bool] = ..., evidence: _Optional[_Mapping[str, float]] = ..., passage: _Optional[_Union[Passage, _Mapping]] = ..., price: _Optional[float] = ..., propensity: _Optional[float] = ...) -> None: ...

class Passage(_message.Message):
    __slots__ = ("passage_id", "parent_id", "start", "end", "text", "before", "after")
    PASSAGE_ID_FIELD_NUMBER: _ClassVar[int]
    PARENT_ID_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    BEFORE_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    passage_id: str
    parent_id: str
    start: int
    end: int
    text: str
    before: _containers.RepeatedCompositeFieldContainer[Passage]
    after: _containers.RepeatedCompositeFieldContainer[Passage]
    def __init__(self, passage_id: _Optional[str] = ..., parent_id: _Optional[str] = ..., start: _Optional[int] = ..., end: _Optional[int] = ..., text: _Optional[str] = ..., before: _Optional[_Iterable[_Union[Passage, _Mapping]]] = ..., after: _Optional[_Iterable[_Union[Passage, _Mapping]]] = ...) -> None: ...

class FacetValue(_message.Message):
    __slots__ = ("value", "count")
    VALUE_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    value: str
    count: int
    def __init__(self, value: _Optional[str] = ..., count: _Optional[int] = ...) -> None: ...

class FacetBucket(_message.Message):
    __slots__ = ("low", "high", "count")
    LOW_FIELD_NUMBER: _ClassVar[int]
    HIGH_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    low: float
    high: float
    count: int
    def __init__(self, low: _Optional[float] = ..., high: _Optional[float] = ..., count: _Optional[int] = ...) -> None: ...

class Facet(_message.Message):
    __slots__ = ("attribute", "values", "min", "max", "buckets")
    ATTRIBUTE_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    MIN_FIELD_NUMBER: _ClassVar[int]
    MAX_FIELD_NUMBER: _ClassVar[int]
    BUCKETS_FIELD_NUMBER: _ClassVar[int]
    attribute: str
    values: _containers.RepeatedCompositeFieldContainer[FacetValue]
    min: float
    max: float
    buckets: _containers.RepeatedCompositeFieldContainer[FacetBucket]
    def __init__(self, attribute: _Optional[str] = ..., values: _Optional[_Iterable[_Union[FacetValue, _Mapping]]] = ..., min: _Optional[float] = ..., max: _Optional[float] = ..., buckets: _Optional[_Iterable[_Union[FacetBucket, _Mapping]]] = ...) -> None: ...

class Page(_message.Message):
    __slots__ = ("hits", "facets", "total", "request_id", "generation", "variants", "cursor", "steps", "degraded", "ms")
    class VariantsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    HITS_FIELD_NUMBER: _ClassVar[int]
    FACETS_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    VARIANTS_FIELD_NUMBER: _ClassVar[int]
    CURSOR_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    DEGRADED_FIELD_NUMBER: _ClassVar[int]
    MS_FIELD_NUMBER: _ClassVar[int]
    hits: _containers.RepeatedCompositeFieldContainer[Hit]
    facets: _containers.RepeatedCompositeFieldContainer[Facet]
    total: int
    request_id: str
    generation: str
    variants: _containers.ScalarMap[str, str]
    cursor: str
    steps: _containers.RepeatedCompositeFieldContainer[_stage_pb2.Step]
    degraded: _containers.RepeatedScalarFieldContainer[str]
    ms: float
    def __init__(self, hits: _Optional[_Iterable[_Union[Hit, _Mapping]]] = ..., facets: _Optional[_Iterable[_Union[Facet, _Mapping]]] = ..., total: _Optional[int] = ..., request_id: _Optional[str] = ..., generation: _Optional[str] = ..., variants: _Optional[_Mapping[str, str]] = ..., cursor: _Optional[str] = ..., steps: _Optional[_Iterable[_Union[_stage_pb2.Step, _Mapping]]] = ..., degraded: _Optional[_Iterable[str]] = ..., ms: _Optional[float] = ...) -> None: ...

class SuggestRequest(_message.Message):
    __slots__ = ("prefix", "limit")
    PREFIX_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    prefix: str
    limit: int
    def __init__(self, prefix: _Optional[str] = ..., limit: _Optional[int] = ...) -> None: ...

class Suggestion(_message.Message):
    __slots__ = ("text", "score", "corrected")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    CORRECTED_FIELD_NUMBER: _ClassVar[int]
    text: str
    score: float
    corrected: bool
    def __init__(self, text: _Optional[str] = ..., score: _Optional[float] = ..., corrected: _Optional[bool] = ...) -> None: ...

class Suggestions(_message.Message):
    __slots__ = ("suggestions",)
    SUGGESTIONS_FIELD_NUMBER: _ClassVar[int]
    suggestions: _containers.RepeatedCompositeFieldContainer[Suggestion]
    def __init__(self, suggestions: _Optional[_Iterable[_Union[Suggestion, _Mapping]]] = ...) -> None: ...

class WhyRequest(_message.Message):
    __slots__ = ("request_id", "item_id")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ITEM_ID_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    item_id: str
    def __init__(self, request_id: _Optional[str] = ..., item_id: _Optional[str] = ...) -> None: ...

class WhyReply(_message.Message):
    __slots__ = ("verdict", "evidence", "steps")
    class EvidenceEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    EVIDENCE_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    verdict: str
    evidence: _containers.ScalarMap[str, float]
    steps: _containers.RepeatedCompositeFieldContainer[_stage_pb2.Step]
    def __init__(self, verdict: _Optional[str] = ..., evidence: _Optional[_Mapping[str, float]] = ..., steps: _Optional[_Iterable[_Union[_stage_pb2.Step, _Mapping]]] = ...) -> None: ...
