"""Tables in files, and two processes that train like one."""

from __future__ import annotations

import pickle
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from funnel.config import Rank
from funnel.errors import BadData
from rank.batch import Encoded, Histories
from rank.deepfm import DeepFM
from rank.fields import Shape
from rank.stored import Writer, opened
from rank.train import Table, fit

SHAPE = Shape(vocab=(20, 10, 12), bags=1, shared=(0,), numbers=2, width=4, hidden=(8,), actions=3)
SETTINGS = Rank(epochs=3, batch=64, learning_rate=0.01, dropout=0.0)
ROOT = Path(__file__).parents[2]


def part(requests: int, seed: int) -> Table:
    draw = np.random.default_rng(seed)
    sizes = draw.integers(2, 12, requests)
    owner, n = np.repeat(np.arange(requests), sizes), int(sizes.sum())
    lengths = draw.integers(0, 6, requests)
    actions = int(lengths.sum())
    past = Histories(
        draw.integers(0, 20, (actions, 1)).astype(np.int32),
        draw.integers(0, 3, actions).astype(np.int32),
        draw.integers(0, 12, actions).astype(np.int32),
        np.concatenate([[0], np.cumsum(lengths)]),
    )
    inputs = Encoded(
        np.stack([draw.integers(0, size, n) for size in (20, 10)], 1).astype(np.int32),
        draw.normal(size=(n, 2)).astype(np.float32),
        draw.integers(0, 12, (n, 1, 3)).astype(np.int32),
        past,
        owner,
    )
    labels = (inputs.numbers[:, 0] + draw.normal(size=n) > 0.8).astype(np.float32)
    rows = draw.permutation(n).astype(np.int32)
    return Table(inputs, labels, rows, draw.random(requests).astype(np.float32))


def joined(parts: list[Table]) -> Table:
    """Written out with NumPy alone."""
    requests = np.cumsum([0] + [len(one.weights) for one in parts])
    actions = np.cumsum([0] + [len(one.inputs.history.codes) for one in parts])
    pasts = [one.inputs.history for one in parts]
    past = Histories(
        np.concatenate([one.codes for one in pasts]),
        np.concatenate([one.actions for one in pasts]),
        np.concatenate([one.gaps for one in pasts]),
        np.concatenate([[0], *(p.offsets[1:] + a for p, a in zip(pasts, actions, strict=False))]),
    )
    inputs = Encoded(
        np.concatenate([one.inputs.ids for one in parts]),
        np.concatenate([one.inputs.numbers for one in parts]),
        np.concatenate([one.inputs.bags for one in parts]),
        past,
        np.concatenate([p.inputs.owner + r for p, r in zip(parts, requests, strict=False)]),
    )
    return Table(
        inputs,
        np.concatenate([one.labels for one in parts]),
        np.concatenate([one.rows for one in parts]),
        np.concatenate([one.weights for one in parts]),
    )


def stored(path: Path, parts: list[Table]) -> Path:
    path.mkdir()
    writer = Writer(path)
    for one in parts:
        writer.add(one)
    writer.close()
    return path


def same(one: Table, two: Table) -> None:
    for name in ("labels", "rows", "weights"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
    for name in ("ids", "numbers", "bags", "owner"):
        np.testing.assert_array_equal(getattr(one.inputs, name), getattr(two.inputs, name))
    for name in ("codes", "actions", "gaps", "offsets"):
        a, b = (getattr(table.inputs.history, name) for table in (one, two))
        np.testing.assert_array_equal(a, b)
    assert one.levels == two.levels


def test_a_stored_table_is_the_parts_one_after_another(tmp_path: Path) -> None:
    parts = [part(7, 1), part(1, 2), part(20, 3)]
    found = opened(stored(tmp_path / "t", parts))
    same(found, joined(parts))
    assert isinstance(found.inputs.ids.base, np.memmap) or isinstance(found.inputs.ids, np.memmap)


def test_a_part_of_another_form_is_refused(tmp_path: Path) -> None:
    writer = Writer(tmp_path)
    writer.add(part(3, 1))
    other = part(3, 2)
    with pytest.raises(BadData, match="numbers of a part is"):
        writer.add(
            Table(
                Encoded(
                    other.inputs.ids,
                    other.inputs.numbers[:, :1],
                    other.inputs.bags,
                    other.inputs.history,
                    other.inputs.owner,
                ),
                other.labels,
                other.rows,
                other.weights,
            )
        )
    writer.close()


def test_training_from_files_is_training_from_memory(tmp_path: Path) -> None:
    parts, valid = [part(60, 1), part(40, 2)], part(30, 3)
    files = fit(lambda: DeepFM(SHAPE), opened(stored(tmp_path / "t", parts)), valid, SETTINGS, 7)
    memory = fit(lambda: DeepFM(SHAPE), joined(parts), valid, SETTINGS, 7)
    assert files.epochs == memory.epochs


SCRIPT = """
import pickle, sys
from rank.workers import train_stored
with open(sys.argv[1], "rb") as file:
    found = train_stored(*pickle.load(file))
import os
if os.environ["RANK"] == "0":
    with open(sys.argv[2], "wb") as file:
        pickle.dump(found, file)
"""


def test_two_processes_have_the_loss_of_one(tmp_path: Path) -> None:
    parts, valid = [part(60, 1), part(41, 2)], part(30, 3)
    args = (
        "deepfm",
        SHAPE,
        str(stored(tmp_path / "train", parts)),
        str(stored(tmp_path / "valid", [valid])),
        SETTINGS,
        7,
    )
    (tmp_path / "args").write_bytes(pickle.dumps(args))
    (tmp_path / "run.py").write_text(SCRIPT)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    place = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    place |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    command = [sys.executable, *(str(tmp_path / name) for name in ("run.py", "args", "out"))]
    running = [
        subprocess.Popen(command, env={**place, "RANK": str(rank)}, stderr=subprocess.PIPE)
        for rank in range(2)
    ]
    for one in running:
        said = one.communicate(timeout=120)[1].decode()
        assert one.returncode == 0, said
    found = pickle.loads((tmp_path / "out").read_bytes())
    alone = fit(lambda: DeepFM(SHAPE), joined(parts), valid, SETTINGS, 7)
    np.testing.assert_allclose(
        found["epochs"], [(one.loss, one.ndcg) for one in alone.epochs], rtol=1e-4
    )
    for name, tensor in alone.model.state_dict().items():
        torch.testing.assert_close(
            torch.from_numpy(found["weights"][name]), tensor, rtol=1e-3, atol=1e-4
        )
