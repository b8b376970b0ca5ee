"""
Warm start: a new ranker begins with what the one before it had learned.

Layers of the same name and shape are taken over. Embeddings are matched by what their codes stand
for (the item's hash, the value of an attribute, the quantile of a number) and not by the codes, of
which each generation has its own; what the old model did not know begins afresh.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from features.assemble import Assembler
from funnel.generation import Generation
from rank.encoding import BINS, Encoding
from rank.scorer import Network

TABLES = ("table.embed.weight", "table.weight.weight")


def carried(
    model: nn.Module,
    encoding: Encoding,
    new: tuple[Generation, Assembler],
    before: Network,
    old: Generation,
) -> tuple[dict[str, Tensor], float]:
    """The weights that `model` begins with, and the share of its embeddings that are the old
    model's. Where the two do not take the same fields, its own weights and 0."""
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    theirs = before.model.state_dict()
    assembler, known = new[1], before.reader.assembler
    alike = assembler.categorical == known.categorical and assembler.names == known.names
    if not alike or assembler.multi != known.multi or type(model) is not type(before.model):
        return state, 0.0
    rows, sources = pairs(encoding, new, before.encoding, (old, known))
    whole = len(state[TABLES[0]]) - 1
    for name, tensor in state.items():
        if name in TABLES:
            if tensor.shape[1] == theirs[name].shape[1]:
                tensor[torch.from_numpy(rows)] = theirs[name][torch.from_numpy(sources)]
        elif "offsets" not in name and name in theirs and theirs[name].shape == tensor.shape:
            tensor.copy_(theirs[name])
    return state, len(rows) / max(whole, 1)


def pairs(
    encoding: Encoding,
    new: tuple[Generation, Assembler],
    before: Encoding,
    old: tuple[Generation, Assembler],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of the new table of embeddings and the rows of the old one that they are."""
    fields = (*new[1].categorical, *new[1].multi)
    k, m = len(new[1].categorical), len(encoding.mean)
    starts, others = (1 + np.cumsum([0, *one.vocab]) for one in (encoding, before))
    rows: list[NDArray[np.int64]] = []
    sources: list[NDArray[np.int64]] = []
    for field, name in enumerate(fields):
        # Codes of the assembler that the new model knows, and the old assembler's for them.
        own = encoding.table[encoding.starts[field] : encoding.starts[field + 1]]
        theirs = before.table[before.starts[field] : before.starts[field + 1]]
        codes = np.flatnonzero(own)
        there = translated(name, codes, new, old)
        known = np.where((there > 0) & (there < len(theirs)), there, 0)
        source = np.where(known > 0, theirs[known], 0)
        place = field if field < k else field + m  # quantiles stand between fields and bags
        # Beside them code 0, which is unknown in both.
        rows.append(starts[place] + np.append(0, own[codes[source > 0]]))
        sources.append(others[place] + np.append(0, source[source > 0]))
    for place in range(k, k + m):
        quantiles = np.arange(min(BINS + 1, encoding.vocab[place], before.vocab[place]))
        rows.append(starts[place] + quantiles)
        sources.append(others[place] + quantiles)
    return np.concatenate(rows), np.concatenate(sources)


def translated(
    name: str,
    codes: NDArray[np.int64],
    new: tuple[Generation, Assembler],
    old: tuple[Generation, Assembler],
) -> NDArray[np.int64]:
    """The old assembler's codes of what the new one's mean; 0 for what it did not have."""
    if name in ("item", "user"):  # powers of two: a bucket of more is a part of one of fewer
        buckets = old[1].vocab[name] - 1
        return (codes - 1) % max(buckets, 1) + 1
    kind, _, attribute = name.partition(".")
    if kind == "query":
        return codes
    values = [_values(kind, attribute, one[0]) for one in (new, old)]
    there = {value: code for code, value in enumerate(values[1], 1)}
    return np.array([there.get(values[0][code - 1], 0) for code in codes.tolist()], np.int64)


def _values(kind: str, attribute: str, generation: Generation) -> Sequence[str]:
    table = generation.items if kind == "item" else generation.users
    return table.values(attribute)
