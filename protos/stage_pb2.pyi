from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Columns(_message.Message):
    __slots__ = ("dtype", "names", "shape", "data")
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    NAMES_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    dtype: str
    names: _containers.RepeatedScalarFieldContainer[str]
    shape: _containers.RepeatedScalarFieldContainer[int]
    data: bytes
    def __init__(self, dtype: _Optional[str] = ..., names: _Optional[_Iterable[str]] = ..., shape: _Optional[_Iterable[int]] = ..., data: _Optional[bytes] = ...) -> None: ...

class Candidates(_message.Message):
    __slots__ = ("count", "columns", "steps")
    COUNT_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    count: int
    columns: _containers.RepeatedCompositeFieldContainer[Columns]
    steps: _containers.RepeatedCompositeFieldContainer[Step]
    def __init__(self, count: _Optional[int] = ..., columns: _Optional[_Iterable[_Union[Columns, _Mapping]]] = ..., steps: _Optional[_Iterable[_Union[Step, _Mapping]]] = ...) -> None: ...

class Step(_message.Message):
    __slots__ = ("name", "seen", "kept", "ms", "fault", "notes")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SEEN_FIELD_NUMBER: _ClassVar[int]
    KEPT_FIELD_NUMBER: _ClassVar[int]
    MS_FIELD_NUMBER: _ClassVar[int]
    FAULT_FIELD_NUMBER: _ClassVar[int]
    NOTES_FIELD_NUMBER: _ClassVar[int]
    name: str
    seen: int
    kept: int
    ms: float
    fault: str
    notes: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, name: _Optional[str] = ..., seen: _Optional[int] = ..., kept: _Optional[int] = ..., ms: _Optional[float] = ..., fault: _Optional[str] = ..., notes: _Optional[_Iterable[str]] = ...) -> None: ...

class History(_message.Message):
    __slots__ = ("rows", "actions", "times")
    ROWS_FIELD_NUMBER: _ClassVar[int]
    ACTIONS_FIELD_NUMBER: _ClassVar[int]
    TIMES_FIELD_NUMBER: _ClassVar[int]
    rows: bytes
    actions: bytes
    times: bytes
    def __init__(self, rows: _Optional[bytes] = ..., actions: _Optional[bytes] = ..., times: _Optional[bytes] = ...) -> None: ...

class Filter(_message.Message):
    __slots__ = ("attribute", "any_of", "low", "high", "exclude", "all", "any")
    ATTRIBUTE_FIELD_NUMBER: _ClassVar[int]
    ANY_OF_FIELD_NUMBER: _ClassVar[int]
    LOW_FIELD_NUMBER: _ClassVar[int]
    HIGH_FIELD_NUMBER: _ClassVar[int]
    EXCLUDE_FIELD_NUMBER: _ClassVar[int]
    ALL_FIELD_NUMBER: _ClassVar[int]
    ANY_FIELD_NUMBER: _ClassVar[int]
    NOT_FIELD_NUMBER: _ClassVar[int]
    attribute: str
    any_of: _containers.RepeatedScalarFieldContainer[str]
    low: float
    high: float
    exclude: bool
    all: Filters
    any: Filters
    def __init__(self, attribute: _Optional[str] = ..., any_of: _Optional[_Iterable[str]] = ..., low: _Optional[float] = ..., high: _Optional[float] = ..., exclude: _Optional[bool] = ..., all: _Optional[_Union[Filters, _Mapping]] = ..., any: _Optional[_Union[Filters, _Mapping]] = ..., **kwargs) -> None: ...

class Filters(_message.Message):
    __slots__ = ("parts",)
    PARTS_FIELD_NUMBER: _ClassVar[int]
    parts: _containers.RepeatedCompositeFieldContainer[Filter]
    def __init__(self, parts: _Optional[_Iterable[_Union[Filter, _Mapping]]] = ...) -> None: ...

class Query(_message.Message):
    __slots__ = ("request_id", "scene", "user_id", "text", "item", "at", "limit", "history", "user", "filters", "excluded", "generation", "variants", "trace", "sort", "live")
    class VariantsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    SCENE_FIELD_NUMBER: _ClassVar[int]
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    ITEM_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    HISTORY_FIELD_NUMBER: _ClassVar[int]
    USER_FIELD_NUMBER: _ClassVar[int]
    FILTERS_FIELD_NUMBER: _ClassVar[int]
    EXCLUDED_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    VARIANTS_FIELD_NUMBER: _ClassVar[int]
    TRACE_FIELD_NUMBER: _ClassVar[int]
    SORT_FIELD_NUMBER: _ClassVar[int]
    LIVE_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    scene: str
    user_id: str
    text: str
    item: int
    at: int
    limit: int
    history: History
    user: _containers.RepeatedCompositeFieldContainer[Columns]
    filters: _containers.RepeatedCompositeFieldContainer[Filter]
    excluded: bytes
    generation: str
    variants: _containers.ScalarMap[str, str]
    trace: int
    sort: str
    live: _containers.RepeatedCompositeFieldContainer[Columns]
    def __init__(self, request_id: _Optional[str] = ..., scene: _Optional[str] = ..., user_id: _Optional[str] = ..., text: _Optional[str] = ..., item: _Optional[int] = ..., at: _Optional[int] = ..., limit: _Optional[int] = ..., history: _Optional[_Union[History, _Mapping]] = ..., user: _Optional[_Iterable[_Union[Columns, _Mapping]]] = ..., filters: _Optional[_Iterable[_Union[Filter, _Mapping]]] = ..., excluded: _Optional[bytes] = ..., generation: _Optional[str] = ..., variants: _Optional[_Mapping[str, str]] = ..., trace: _Optional[int] = ..., sort: _Optional[str] = ..., live: _Optional[_Iterable[_Union[Columns, _Mapping]]] = ...) -> None: ...

class StageRequest(_message.Message):
    __slots__ = ("query", "candidates", "data")
    QUERY_FIELD_NUMBER: _ClassVar[int]
    CANDIDATES_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    query: Query
    candidates: Candidates
    data: bytes
    def __init__(self, query: _Optional[_Union[Query, _Mapping]] = ..., candidates: _Optional[_Union[Candidates, _Mapping]] = ..., data: _Optional[bytes] = ...) -> None: ...

class StageReply(_message.Message):
    __slots__ = ("candidates", "data")
    CANDIDATES_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    candidates: Candidates
    data: bytes
    def __init__(self, candidates: _Optional[_Union[Candidates, _Mapping]] = ..., data: _Optional[bytes] = ...) -> None: ...
