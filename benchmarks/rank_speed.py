"""
How fast the learned stages score, each beside its plain peer in the same run.

prerank: `rows` candidates of `width` features, features given, 300 trees of 31 leaves; the peer is
LightGBM's own `Booster.predict`. One request at a time on one thread, the two in turns. `floor ms`
is what the comparisons take if every cycle does one vector instruction of eight of them at 3 GHz.

deepfm: 500 candidates of 10 fields of width 10, layers 400-400-400; din and transformer: 500
candidates and a history of 50, width 64. Codes are given. A peer has the same weights and is the
paper's formula as it stands: the FM as a sum over pairs; the activation unit over [q, k, q - k,
q * k] side by side; the history encoded once a candidate. The scores agree, which is checked.
`MFLOP` are those of the matrix products, `floor ms` is what they take at the speed that a large
matrix product reaches on this core in the same run, and `x floor` how far from that a request is.

Where there is an NVIDIA GPU the networks are measured on it too, with 1, 8 and 32 requests as one
batch; codes go to it and scores come back within the time, and `x peer` compares a request with the
same network on the core.

`--training` says how many rows a second DeepFM of that shape and DIN learn from: DIN on histories
as they are, ten actions in the mean and fifty at most, and on the same padded to fifty.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Annotated, Any

import lightgbm as lgb
import numpy as np
import torch
import typer
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks import harness
from funnel.types import Floats
from prerank.trees import flattened
from rank.batch import GAPS, Batch, Encoded, Histories
from rank.deepfm import DeepFM
from rank.din import DIN, HIDDEN
from rank.fields import Shape
from rank.matched import Matched
from rank.models import MODELS
from rank.pairs import Pairs
from rank.together import joined
from rank.train import Packed, Table, loss
from rank.transformer import Transformer

WARM = 5
LANES, HERTZ = 8, 3e9
TOGETHER = 1, 8, 32  # requests of a batch on a GPU


def in_turns(methods: Mapping[str, Callable[[], Any]], times: int) -> dict[str, np.ndarray]:
    """Milliseconds of every call of every method."""
    spent: dict[str, list[float]] = {name: [] for name in methods}
    for turn in range(times + WARM):
        for name, call in methods.items():
            begin = time.perf_counter()
            call()
            if turn >= WARM:
                spent[name].append(1e3 * (time.perf_counter() - begin))
    return {name: np.array(values) for name, values in spent.items()}


def rows_of(spent: Mapping[str, np.ndarray], peer: str, scored: int) -> list[dict[str, Any]]:
    base = float(np.median(spent[peer]))
    return [
        {
            "method": name,
            "p50 ms": float(np.median(values)),
            "p99 ms": float(np.percentile(values, 99)),
            "x peer": base / float(np.median(values)),
            "scores/s": 1e3 * scored / float(np.median(values)),
        }
        for name, values in spent.items()
    ]


def prerank(rows: int, width: int, trees: int, leaves: int, times: int) -> list[dict[str, Any]]:
    draw = np.random.default_rng(7)
    matrix = draw.standard_normal((20_000, width)).astype(np.float32)
    matrix[draw.random(matrix.shape) < 0.1] = np.nan
    labels = (np.nan_to_num(matrix[:, :8]).sum(1) + 2 * draw.standard_normal(20_000) > 0) * 1
    params = {"objective": "binary", "num_leaves": leaves, "learning_rate": 0.05, "verbosity": -1}
    booster = lgb.train(params | {"num_threads": 1}, lgb.Dataset(matrix, labels), trees)
    begin = time.perf_counter()
    flat = flattened(booster)
    assert flat is not None
    asked = matrix[:rows]
    flat.score(asked)
    ready = time.perf_counter() - begin
    spent = in_turns(
        {
            "prerank": lambda: flat.score(asked),
            "Booster.predict": lambda: booster.predict(asked, raw_score=True, num_threads=1),
        },
        times,
    )
    floor = 1e3 * rows * len(flat.thresholds) / LANES / HERTZ
    found = rows_of(spent, "Booster.predict", rows)
    return [found[0] | {"floor ms": floor, **far(found[0], floor), "ready s": ready}, found[1]]


def far(row: Mapping[str, Any], floor: float) -> dict[str, float]:
    return {"x floor": row["p50 ms"] / floor}


VOCAB = 100_000  # codes of a field
DEEP = Shape(vocab=(VOCAB,) * 10, width=10, hidden=(400, 400, 400))
WIDE = Shape(
    vocab=(VOCAB, 1000, 1000, 100), shared=(0, 1), width=32, hidden=(128, 64), actions=5, unit=64
)


def encoded(shape: Shape, candidates: int, past: int, seed: int = 0) -> Encoded:
    """One request."""
    draw = np.random.default_rng(seed)
    ids = np.stack([draw.integers(0, size, candidates) for size in shape.vocab], 1)
    codes = [draw.integers(1, shape.vocab[field], past) for field in shape.shared]
    return Encoded(
        ids.astype(np.int32),
        np.zeros((candidates, 0), np.float32),
        np.zeros((candidates, 0, 1), np.int32),
        Histories(
            np.stack(codes, 1).astype(np.int32) if codes else np.zeros((past, 0), np.int32),
            draw.integers(0, shape.actions, past).astype(np.int32),
            draw.integers(0, GAPS, past).astype(np.int32),
            np.array([0, past]),
        ),
        np.zeros(candidates, np.int64),
    )


def request(shape: Shape, candidates: int, past: int) -> Batch:
    return Batch.of(encoded(shape, candidates, past))


def plain_deepfm(model: DeepFM, batch: Batch) -> Tensor:
    """Equation 2 as a sum over pairs."""
    v, first = model.table(batch)
    crossed = [
        (v[:, i] * v[:, j]).sum(1) for i in range(v.shape[1]) for j in range(i + 1, v.shape[1])
    ]
    wide = first + torch.stack(crossed).sum(0)
    found: Tensor = (
        wide[:, None] * model.ends.scale + model.ends.bias + model.ends.deep(v.flatten(1))
    )
    return found


def plain_din(model: DIN, batch: Batch) -> Tensor:
    """The unit's first layer over all four parts of every pair."""
    v, first = model.table(batch)
    past, more = model.table.pooled(batch)
    q, k = model.actions.candidates(v), model.actions.past(model.table, batch)
    unit = model.unit
    layer = torch.cat(
        [unit.query.weight, unit.key.weight, 0 * unit.key.weight, unit.product.weight], 1
    )
    queries = q[:, None].expand(-1, len(k), -1)
    keys = k[None].expand(len(q), -1, -1)
    parts = torch.cat([queries, keys, queries - keys, queries * keys], 2)
    near = (unit.near(queries) * unit.far(keys)).sum(2, keepdim=True) * HIDDEN**-0.5
    recent = unit.place(torch.arange(len(k) - 1, -1, -1).clamp(max=model.shape.past - 1))
    weights = unit.out(F.relu(F.linear(parts, layer, unit.query.bias))) + near + recent
    own = (weights.softmax(1) * keys).sum(1)
    matched = model.matched(batch, Pairs.of(batch.offsets, batch.owner))
    v = torch.cat([v, past[batch.owner]], 1)
    found: Tensor = model.ends(v, first + more[batch.owner], batch, own, own * q, matched)
    return found


def plain_transformer(model: Transformer, batch: Batch) -> Tensor:
    """Every candidate with a copy of the history."""
    n, h = len(batch.owner), len(batch.codes)
    copies = batch._replace(
        codes=batch.codes.repeat(n, 1),
        actions=batch.actions.repeat(n),
        gaps=batch.gaps.repeat(n),
        offsets=torch.arange(n + 1) * h,
        owner=torch.arange(n),
    )
    found: Tensor = model(copies)
    return found


def layers(shape: Shape, candidates: int, inputs: int) -> float:
    """FLOPs of the MLP."""
    widths = (inputs, *shape.hidden, 1)
    return 2.0 * candidates * sum(a * b for a, b in pairwise(widths))


def flops(name: str, candidates: int, past: int) -> float:
    """Of the matrix products of one request."""
    if name == "deepfm":
        return layers(DEEP, candidates, len(DEEP.vocab) * DEEP.width)
    unit, joined = WIDE.unit, len(WIDE.shared) * WIDE.width
    fields = len(WIDE.vocab) + len(WIDE.shared)
    found = layers(WIDE, candidates, fields * WIDE.width + 2 * unit + Matched.width(WIDE))
    found += 2.0 * (candidates + past) * joined * unit
    if name == "din":
        products = candidates * past * (unit * HIDDEN + 2 * HIDDEN + unit)
        return found + 2.0 * (products + 2 * (candidates + past) * unit * HIDDEN)
    block = past * unit * unit * (3 + 1 + 2 + 2) + 2 * past * past * unit
    attend = (candidates + 2 * past) * unit * unit + 2 * candidates * past * unit
    return found + 2.0 * (block + attend)


def peak() -> float:
    """FLOPs a second of a large matrix product on one thread."""
    a, b = torch.randn(1024, 1024), torch.randn(1024, 1024)
    spent = []
    for _ in range(20):
        begin = time.perf_counter()
        torch.mm(a, b)
        spent.append(time.perf_counter() - begin)
    return 2 * 1024.0**3 / float(np.median(spent))


def networks(candidates: int, past: int, times: int) -> list[dict[str, Any]]:
    torch.set_num_threads(1)
    fast, found = peak(), list[dict[str, Any]]()
    pairs: list[tuple[str, Any, Any, Batch]] = [
        ("deepfm", DeepFM(DEEP), plain_deepfm, request(DEEP, candidates, 0)),
        ("din", DIN(WIDE), plain_din, request(WIDE, candidates, past)),
        ("transformer", Transformer(WIDE), plain_transformer, request(WIDE, candidates, past)),
    ]
    with torch.inference_mode():
        for name, model, plain, batch in pairs:
            model.eval()
            torch.testing.assert_close(model(batch), plain(model, batch), atol=1e-5, rtol=1e-5)
            methods = {name: partial(model, batch), f"plain {name}": partial(plain, model, batch)}
            own = rows_of(in_turns(methods, times), f"plain {name}", candidates)
            work = flops(name, candidates, past)
            floor = 1e3 * work / fast
            own[0] |= {"MFLOP": work / 1e6, "floor ms": floor, **far(own[0], floor)}
            found += own
    return found


def batched(
    device: torch.device, candidates: int, past: int, times: int, core: Mapping[str, float]
) -> list[dict[str, Any]]:
    """The networks on a device with so many requests as one batch, there and back; `core` has the
    milliseconds of a request on the core."""
    found = []
    for name, shape in (("deepfm", DEEP), ("din", WIDE), ("transformer", WIDE)):
        length = past if shape.shared else 0
        model = MODELS[name](shape).eval().to(device)
        for requests in TOGETHER:
            each = [encoded(shape, candidates, length, seed) for seed in range(requests)]
            batch = joined(each)

            def forward(model: nn.Module = model, batch: Encoded = batch) -> Floats:
                scores: Floats = model(Batch.of(batch, device)).float().cpu().numpy()
                return scores

            label = f"{name}, {device.type}, {requests} requests"
            with torch.inference_mode():
                spent = in_turns({label: forward}, times)
            (own,) = rows_of(spent, label, candidates * requests)
            found.append(own | {"x peer": core[name] * requests / own["p50 ms"]})
    return found


def learned(shape: Shape, model: Any, rows: int, past: int, mean: int, padded: bool) -> float:
    """Rows a second of one pass over as many rows, a row a request, batches of 1,024."""
    draw = np.random.default_rng(0)
    lengths = np.minimum(draw.geometric(1 / mean, rows), past) if past else np.zeros(rows, int)
    offsets = np.arange(rows + 1) * past if padded else np.concatenate([[0], np.cumsum(lengths)])
    total = int(offsets[-1])
    codes = [draw.integers(1, shape.vocab[field], total) for field in shape.shared]
    past_codes = np.stack(codes, 1) if codes else np.zeros((total, 0))
    inputs = Encoded(
        np.stack([draw.integers(0, size, rows) for size in shape.vocab], 1).astype(np.int32),
        np.zeros((rows, 0), np.float32),
        np.zeros((rows, 0, 1), np.int32),
        Histories(
            past_codes.astype(np.int32),
            np.ones(total, np.int32),
            np.ones(total, np.int32),
            offsets.astype(np.int64),
        ),
        np.arange(rows),
    )
    labels = (draw.random(rows) < 0.25).astype(np.float32)
    table = Table(inputs, labels, np.arange(rows, dtype=np.int32), np.ones(rows, np.float32))
    data = Packed.of(table, torch.device("cpu"))
    optimizer = torch.optim.Adam(model.parameters(), 1e-3, fused=True)
    model.train()
    spent = []
    for requests in data.batches(1024, torch.Generator().manual_seed(1)):
        begin = time.perf_counter()
        batch, wanted, _ = data.take(requests)
        value = loss(model(batch), wanted, batch.owner, data.weights[requests])
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(value)
        optimizer.step()
        spent.append(time.perf_counter() - begin)
    return 1024 / float(np.median(spent))


def training(rows: int) -> list[dict[str, Any]]:
    torch.set_num_threads(2)
    deep = replace(DEEP, vocab=(10_000,) * 10)
    wide = replace(WIDE, vocab=(10_000, 1000, 1000, 100))
    found = {
        "deepfm": learned(deep, DeepFM(deep), rows, 0, 1, False),
        "din, packed histories": learned(wide, DIN(wide), rows, 50, 10, False),
        "din, padded to 50": learned(wide, DIN(wide), rows, 50, 10, True),
    }
    return [{"method": name, "rows/s": value} for name, value in found.items()]


def main(
    rows: Annotated[int, typer.Option(help="candidates of prerank")] = 2000,
    width: Annotated[int, typer.Option(help="features of prerank")] = 60,
    trees: Annotated[int, typer.Option()] = 300,
    leaves: Annotated[int, typer.Option(help="of a tree")] = 31,
    candidates: Annotated[int, typer.Option(help="of rank")] = 500,
    past: Annotated[int, typer.Option(help="actions of a history")] = 50,
    times: Annotated[int, typer.Option(help="requests of each")] = 100,
    train: Annotated[
        bool, typer.Option("--training", help="how fast they learn, on two threads")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object")] = False,
) -> None:
    """How fast the learned stages score."""
    if train:
        harness.show("rank_speed", "training, batches of 1,024", training(50_000), as_json)
        return
    found = prerank(rows, width, trees, leaves, times) + networks(candidates, past, times)
    if torch.cuda.is_available():
        core = {row["method"]: row["p50 ms"] for row in found}
        found += batched(torch.device("cuda"), candidates, past, times, core)
    keys = dict.fromkeys(key for row in found for key in row)
    found = [{key: row.get(key, float("nan")) for key in keys} for row in found]
    harness.show("rank_speed", f"{rows:,} rows, {candidates} candidates", found, as_json)


if __name__ == "__main__":
    harness.run(main)
