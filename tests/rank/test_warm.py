"""A warm start: what two generations mean by their codes, and training that begins ahead."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from features.assemble import Assembler
from funnel.config import parse
from funnel.generation import Generation
from jobs import train_rank
from jobs.work import Work
from rank.encoding import Encoding
from rank.fields import Shape
from rank.models import MODELS
from rank.scorer import Network
from rank.warm import carried, translated
from tests.rank.shop import shop


def published(work: Work) -> Work:
    """The work's draft with its model, published; the same work, which begins with it."""
    train_rank.run(work)
    root = Path(work.config.build.root)
    shutil.copytree(work.draft, root / "g1")
    about = json.loads((root / "g1/manifest.json").read_text())
    (root / "g1/manifest.json").write_text(json.dumps({**about, "id": "g1"}))
    (root / "CURRENT").write_text("g1")
    table = work.config.model_dump(mode="json")
    table["rank"]["warm"] = True
    return replace(work, config=parse(table))


def test_training_on_begins_where_the_model_before_ended(tmp_path: Path) -> None:
    work = shop(tmp_path, requests=120)
    warm = published(work)
    table = warm.config.model_dump(mode="json")
    table["rank"] |= {"epochs": 1, "learning_rate": 1e-6, "dropout": 0.0}
    again = train_rank.run(replace(warm, config=parse(table)))["home"]
    assert again["warm"] == 1.0
    table["rank"]["warm"] = False
    cold = train_rank.run(replace(warm, config=parse(table)))["home"]
    assert "warm" not in cold
    assert again["network alone"] > cold["network alone"] + 0.05
    first = json.loads((Path(work.config.build.root) / "g1/rank/home/meta.json").read_text())
    assert abs(again["network alone"] - first["metrics"]["network alone"]) < 0.02


def test_codes_are_matched_by_what_they_stand_for(tmp_path: Path) -> None:
    work = published(shop(tmp_path, requests=80))
    old = Generation.open(Path(work.config.build.root) / "g1", check=False)
    new = Generation.open(work.past_draft, check=False)
    pairs = [(one, Assembler(one, work.config, "home")) for one in (new, old)]
    codes = np.arange(1, 6)
    assert translated("item.category", codes, *pairs).tolist() == codes.tolist()
    values = old.items.values("category")
    old.items._values["category"] = [values[3], "other", values[0], values[1], values[2]]
    assert translated("item.category", codes, *pairs).tolist() == [3, 4, 5, 1, 0]
    assert translated("query.hour", codes, *pairs).tolist() == codes.tolist()
    pairs[1][1].vocab["item"] = 5  # four buckets: hash % 4 + 1 of hash % 1024 + 1
    assert translated("item", np.array([1, 4, 5, 1024]), *pairs).tolist() == [1, 4, 1, 4]


def test_every_embedding_comes_from_the_row_of_the_same_value(tmp_path: Path) -> None:
    work = published(shop(tmp_path, requests=80))
    old = Generation.open(Path(work.config.build.root) / "g1", check=False)
    new = Generation.open(work.past_draft, check=False)
    before = Network.open(old, work.config, "home")
    assembler = Assembler(new, work.config, "home")
    # The new model knows fewer codes: every second one of each field.
    table = before.encoding.table.copy()
    for low, high in zip(before.encoding.starts, before.encoding.starts[1:], strict=False):
        some = np.flatnonzero(table[low:high])[::2]
        table[low:high] = 0
        table[low + some] = np.arange(1, len(some) + 1)
    arrays = dict(before.encoding.arrays()) | {"table": table}
    encoding = Encoding(**arrays)
    shape = replace(before.model.shape, vocab=encoding.vocab)  # type: ignore[union-attr]
    assert isinstance(shape, Shape)
    torch.manual_seed(1)
    model = MODELS["deepfm"](shape)
    state, share = carried(model, encoding, (new, assembler), before, old)
    assert share == 1.0
    theirs = before.model.state_dict()["table.embed.weight"]
    mine = state["table.embed.weight"]
    starts, others = (1 + np.cumsum([0, *one.vocab]) for one in (encoding, before.encoding))
    for field in range(len(assembler.categorical)):
        low, high = encoding.starts[field : field + 2]
        for code in np.flatnonzero(table[low:high]):
            row = starts[field] + table[low + code]
            source = others[field] + before.encoding.table[low + code]
            assert torch.equal(mine[row], theirs[source])
    assert torch.equal(state["ends.bias"], before.model.state_dict()["ends.bias"])


def test_another_network_begins_afresh(tmp_path: Path) -> None:
    work = published(shop(tmp_path, requests=80))
    table = work.config.model_dump(mode="json")
    table["rank"] |= {"network": "din", "epochs": 1}
    found = train_rank.run(replace(work, config=parse(table)))["home"]
    assert found["warm"] == 0.0
