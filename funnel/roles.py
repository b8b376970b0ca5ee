"""What the columns of a data set are for: searched in, filtered on, learned from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.types as pt

from funnel.config import Data
from funnel.dataset import ITEMS, USERS, Table, plain, shown
from funnel.errors import BadData

# Numbers and codes in every catalogue that has them, named in the config or not.
ALWAYS = ("created_at", "available", "bid")
SPONSOR = "sponsor_id"
FITS = {
    "text": "searchable columns are string or list<string>",
    "categorical": "categorical columns are string, bool or integer",
    "multi": "multi-valued columns are lists",
    "numeric": "numeric columns are numbers or bool",
    "filterable": "filterable columns are string, bool, numbers or lists of these",
    "user_categorical": "categorical columns are string, bool or integer",
    "product_key": "the product key is string or integer",
}


@dataclass(frozen=True, slots=True)
class Roles:
    """What the columns of one data set are for: the config's `data` section, resolved."""

    text: Mapping[str, float]
    categorical: tuple[str, ...]
    multi: tuple[str, ...]
    numeric: tuple[str, ...]
    filterable: tuple[str, ...]
    user_categorical: tuple[str, ...]
    product_key: str

    @staticmethod
    def of(config: Data, items: pa.Schema, users: pa.Schema | None = None) -> Roles:
        """The columns of the config that the data set has.

        One that the contract knows by name may be absent; any other must be there, and each must
        have a type that fits. Raises `BadData` with everything that does not.
        """
        problems: list[str] = []

        def fit(role: str, names: Sequence[str], table: Table, has: pa.Schema) -> tuple[str, ...]:
            present = []
            for name in names:
                if name in has.names:
                    present.append(name)
                    kind = plain(has.field(name).type)
                    if not _fits(role, kind):
                        problems.append(f"data.{role}: '{name}' is {shown(kind)}: {FITS[role]}")
                elif table.column(name) is None:
                    problems.append(
                        f"data.{role}: {table.name}/ has no column '{name}'; "
                        f"it has: {', '.join(has.names)}"
                    )
            return tuple(present)

        text = fit("text", tuple(config.text), ITEMS, items)
        roles = Roles(
            {name: config.text[name] for name in text},
            fit("categorical", config.categorical, ITEMS, items),
            fit("multi", config.multi, ITEMS, items),
            fit("numeric", config.numeric, ITEMS, items),
            fit("filterable", config.filterable, ITEMS, items),
            fit("user_categorical", config.user_categorical, USERS, users or USERS.schema),
            "".join(fit("product_key", [config.product_key], ITEMS, items))
            if config.product_key
            else "",
        )
        coded = (*roles.categorical, *roles.multi, *roles.numeric, *ALWAYS)
        for name in roles.filterable:
            if name not in coded:
                problems.append(
                    f"data.filterable: '{name}' must also be in data.categorical, multi or numeric"
                )
        if not text:
            problems.append("data.text: none of the searchable columns is there")
        if problems:
            raise BadData("the config does not fit the data set:\n  " + "\n  ".join(problems))
        return roles


def _fits(role: str, kind: pa.DataType) -> bool:
    inner = plain(kind.value_type) if pt.is_list(kind) else kind
    word = bool(pt.is_string(kind) or pt.is_boolean(kind) or pt.is_integer(kind))
    number = bool(pt.is_integer(kind) or pt.is_floating(kind) or pt.is_boolean(kind))
    match role:
        case "text":
            return bool(pt.is_string(inner))
        case "multi":
            return bool(pt.is_list(kind) and (pt.is_string(inner) or pt.is_integer(inner)))
        case "numeric":
            return number
        case "filterable":
            return word or number or bool(pt.is_list(kind) and _fits("filterable", inner))
    return word
