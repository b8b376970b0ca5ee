"""Named columns as bytes: little-endian, those of one type and shape packed into one block."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from funnel.errors import BadQuery, FunnelError
from funnel.types import Array

_KINDS = ("float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint64", "bool")
DTYPES = {name: np.dtype(name).newbyteorder("<") for name in _KINDS}
_SENT = {np.dtype(name): name for name in _KINDS}
_EMPTY = {kind: np.frombuffer(b"", kind) for kind in DTYPES.values()}


def blocks(
    columns: Mapping[str, Array], lead: tuple[int, ...]
) -> dict[tuple[str, tuple[int, ...]], dict[str, Array]]:
    """The columns by type and shape; their first axes must be `lead`."""
    axes = len(lead)
    blocks: dict[tuple[str, tuple[int, ...]], dict[str, Array]] = {}
    for name, column in columns.items():
        sent = _SENT.get(column.dtype)
        if sent is None:
            known = ", ".join(DTYPES)
            raise FunnelError(f"column '{name}' is {column.dtype}; the wire carries {known}")
        shape = column.shape
        if shape[:axes] != lead:
            raise FunnelError(f"column '{name}' has shape {shape} for {lead[0]} candidates")
        blocks.setdefault((sent, shape[axes:]), {})[name] = column
    return blocks


def unpack(
    columns: dict[str, Array],
    names: Sequence[str],
    dtype: str,
    data: bytes | memoryview,
    shape: tuple[int, ...],
    where: str,
) -> None:
    """Adds one block's columns under their names; `shape` is that of each."""
    flat = array_of(data, dtype, where, names)
    try:
        values = flat.reshape(len(names), *shape)
    except ValueError as error:  # other than so many values, or axes that no array can have
        said = f"{len(flat)} {dtype} values do not make {len(names)} columns of shape {shape}"
        raise BadQuery(f"{_place(where, names)}: {said}") from error
    due = len(columns) + len(names)
    # Iterating is the fastest way to rows, but of one axis it gives numbers, not arrays.
    rows = values if shape else (values[place, ...] for place in range(len(names)))
    columns.update(zip(names, rows, strict=True))
    if len(columns) != due:
        raise BadQuery(f"{_place(where, names)}: a name is there twice")


def kind_of(dtype: str, where: str) -> np.dtype[Any]:
    kind = DTYPES.get(dtype)
    if kind is None:
        raise BadQuery(f"{where}: unknown dtype '{dtype}'; known: {', '.join(DTYPES)}")
    return kind


def array_of(data: bytes | memoryview, dtype: str, where: str, names: Sequence[str] = ()) -> Array:
    """A read-only view of the bytes; a copy where they lie crooked."""
    kind = kind_of(dtype, where)
    if not data:
        return _EMPTY[kind]
    if len(data) % kind.itemsize:
        said = f"{len(data)} bytes are not a whole number of {dtype} values"
        raise BadQuery(f"{_place(where, names)}: {said}")
    if dtype == "bool" and bytes(data).strip(b"\0\1"):
        raise BadQuery(f"{_place(where, names)}: a bool is neither 0 nor 1")
    array: Array = np.frombuffer(data, kind)
    return array if array.flags.aligned else _frozen(array.copy())


def _place(where: str, names: Sequence[str]) -> str:
    return f"{where} [{', '.join(names)}]" if names else where


def _frozen(array: Array) -> Array:
    array.setflags(write=False)
    return array


def flat(array: Array, dtype: str) -> Any:
    """The array's memory, copied only where it has gaps or another type."""
    return np.ascontiguousarray(array, DTYPES[dtype])
