"""
What a scene orders by, as the config says it: `p.click + 4 * p.purchase * log(1 + item.price)`.

    +  -  *  /  **      numbers, brackets
    <  <=  >  >=        1 or 0
    log exp sqrt abs    of one value
    min max             of two or more
    where(a, b, c)      b where a is not 0, else c
    known(a, b)         a, or b where a is missing

Names are columns such as `p.click` and `rank`, numeric attributes of items (`item.price`), and
`age.days`; who uses a formula says which there are. Missing values are NaN, and so is what is
computed of them.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any, NoReturn, cast

import numpy as np

from funnel.types import Array

MOST = 1000  # characters
OPERATORS: Mapping[type[ast.AST], Callable[..., Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.UAdd: operator.pos,
    ast.USub: operator.neg,
}
# Each with the fewest and the most values that it takes; 0 is any number.
FUNCTIONS: Mapping[str, tuple[Callable[..., Any], int, int]] = {
    "log": (np.log, 1, 1),
    "exp": (np.exp, 1, 1),
    "sqrt": (np.sqrt, 1, 1),
    "abs": (np.abs, 1, 1),
    "min": (lambda *values: reduce(np.minimum, values), 2, 0),
    "max": (lambda *values: reduce(np.maximum, values), 2, 0),
    "where": (lambda a, b, c: np.where(np.isnan(a), np.nan, np.where(a != 0, b, c)), 3, 3),
    "known": (lambda a, b: np.where(np.isnan(a), b, a), 2, 2),
}


@dataclass(frozen=True)
class Formula:
    """A parsed formula and the names that it needs."""

    text: str
    names: tuple[str, ...]
    tree: ast.expr

    @staticmethod
    def parse(text: str) -> Formula:
        """Raises `ValueError` that says what is wrong and where."""
        if len(text) > MOST:
            raise ValueError(f"it has {len(text)} characters; {MOST} are allowed")
        try:
            tree = ast.parse(text, mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            said = error.msg if isinstance(error, SyntaxError) else str(error)
            raise ValueError(f"'{text}' is no formula: {said}") from error
        names: list[str] = []
        _check(tree, text, names)
        return Formula(text, tuple(dict.fromkeys(names)), tree)

    def __call__(self, columns: Mapping[str, Array], count: int) -> Array:
        """(count,) float64. `columns` has all of `names`."""
        with np.errstate(all="ignore"):
            value = np.asarray(_value(self.tree, columns), np.float64)
        return np.array(np.broadcast_to(value, (count,)))


def _check(node: ast.expr, text: str, names: list[str]) -> None:
    match node:
        case ast.Constant(value=int() | float()) if not isinstance(node.value, bool):
            return
        case ast.Name() | ast.Attribute():
            names.append(_name(node, text))
            return
        case ast.BinOp(left=a, op=op, right=b) if type(op) in OPERATORS:
            parts: Sequence[ast.expr] = (a, b)
        case ast.UnaryOp(op=op, operand=a) if type(op) in OPERATORS:
            parts = (a,)
        case ast.Compare(left=a, ops=[op], comparators=[b]) if type(op) in OPERATORS:
            parts = (a, b)
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in FUNCTIONS:
            _, least, most = FUNCTIONS[name]
            if len(args) < least or (most and len(args) > most):
                wanted = f"{least}" if least == most else f"{least} or more"
                raise ValueError(f"'{ast.unparse(node)}': {name} takes {wanted} values")
            parts = args
        case ast.Call(func=ast.Name(id=name)):
            raise ValueError(f"'{name}' is no function; known: {', '.join(FUNCTIONS)}")
        case _:
            _refuse(node, text)
    for part in parts:
        _check(part, text, names)


def _name(node: ast.expr, text: str) -> str:
    if isinstance(node, ast.Name):
        return node.id
    if not isinstance(node, ast.Attribute):
        _refuse(node, text)
    return f"{_name(node.value, text)}.{node.attr}"


def _refuse(node: ast.expr, text: str) -> NoReturn:
    raise ValueError(
        f"'{ast.unparse(node)}' in '{text}' is not understood: use numbers, names, "
        f"+ - * / **, comparisons of two, and {', '.join(FUNCTIONS)}"
    )


def _value(node: ast.expr, columns: Mapping[str, Array]) -> Any:
    match node:
        case ast.Constant(value=value):
            return np.float64(cast(float, value))
        case ast.BinOp(left=a, op=op, right=b):
            return OPERATORS[type(op)](_value(a, columns), _value(b, columns))
        case ast.UnaryOp(op=op, operand=a):
            return OPERATORS[type(op)](_value(a, columns))
        case ast.Compare(left=a, ops=[op], comparators=[b]):
            left, right = _value(a, columns), _value(b, columns)
            unknown = np.isnan(left) | np.isnan(right)
            return np.where(unknown, np.nan, OPERATORS[type(op)](left, right))
        case ast.Call(func=ast.Name(id=name), args=args):
            return FUNCTIONS[name][0](*(_value(arg, columns) for arg in args))
        case _:
            return np.asarray(columns[_name(node, "")], np.float64)
