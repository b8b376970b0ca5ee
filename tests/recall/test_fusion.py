"""Fusion against formulas written naively, and fitting against requests with a known answer."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from funnel.config import parse
from funnel.errors import BadGeneration
from funnel.generation import Generation, Manifest
from funnel.metrics import ndcg_at_k
from funnel.types import Candidates, Query
from recall.fit import FEWEST, Judged, Sheet, fit
from recall.fusion import Fusion, configured, fusion_of
from recall.normalise import NORMS

FUSED = ["bm25", "vector", "item_cf", "popular"]
WEIGHTS = {"bm25": 0.5, "vector": 0.25, "item_cf": 0.25, "popular": 1.0}
LISTS = st.dictionaries(st.integers(0, 30), st.integers(-40, 40).map(lambda v: v / 8), max_size=12)
SEVERAL = st.dictionaries(st.sampled_from(FUSED), LISTS, min_size=1)


def listed(scores: Mapping[int, float]) -> Candidates:
    rows = sorted(scores, key=lambda row: (-scores[row], row))
    return Candidates(np.array(rows, np.int32), np.array([scores[r] for r in rows], np.float32))


def naive_norm(scores: dict[int, float], norm: str) -> dict[int, float]:
    values = list(scores.values())
    if not values:
        return {}
    mean, deviation = statistics.fmean(values), statistics.pstdev(values)
    low, high = min(values), max(values)
    order = sorted(scores, key=lambda row: (-scores[row], row))
    match norm:
        case "min_max":
            return {r: (s - low) / (high - low) if high > low else 1.0 for r, s in scores.items()}
        case "z_score":
            return {r: (s - mean) / deviation if deviation else 0.0 for r, s in scores.items()}
        case "dbsf":
            wide = 6 * deviation
            return {
                r: min(max((s - mean + wide / 2) / wide, 0), 1) if wide else 0.5
                for r, s in scores.items()
            }
    return {row: 1 - place / len(order) for place, row in enumerate(order)}


def naive(
    lists: dict[str, dict[int, float]], method: str, norm: str, k: int, missing: float | None
) -> dict[int, float]:
    total = sum(WEIGHTS[name] for name in lists)
    fused = dict.fromkeys((row for scores in lists.values() for row in scores), 0.0)
    for name, scores in lists.items():
        share = WEIGHTS[name] / total
        order = sorted(scores, key=lambda row: (-scores[row], row))
        known = naive_norm(scores, norm)
        floor = min([-1.0, *known.values()]) if norm == "z_score" else 0.0
        default = floor if missing is None else missing
        for row in fused:
            if method == "rrf":
                fused[row] += share / (k + order.index(row) + 1) if row in scores else 0.0
            else:
                fused[row] += share * known.get(row, default)
    return fused


@settings(deadline=None, max_examples=200)
@given(
    SEVERAL,
    st.sampled_from(["sum", "rrf"]),
    st.sampled_from(sorted(NORMS)),
    st.sampled_from([None, 0.0, -1.0]),
    st.integers(1, 20),
)
def test_fusion_equals_its_formula(
    lists: dict[str, dict[int, float]], method: str, norm: str, missing: float | None, keep: int
) -> None:
    expected = naive(lists, method, norm, 10, missing)
    fuse = Fusion(WEIGHTS, method, norm, 10, missing)
    found = {name: listed(scores) for name, scores in lists.items()}
    fused = fuse(Query(), found, keep)
    assert len(fused) == min(keep, len(expected))
    assert len(set(fused.rows.tolist())) == len(fused)
    np.testing.assert_allclose(fused.scores, [expected[r] for r in fused.rows.tolist()], atol=1e-5)
    order = np.lexsort((fused.rows, -fused.scores))
    assert order.tolist() == list(range(len(fused)))
    worst = fused.scores[-1] if len(fused) else np.inf
    assert all(expected[row] <= worst + 1e-5 for row in set(expected) - set(fused.rows.tolist()))
    for name, scores in lists.items():
        column = fused.columns[f"recall.{name}"]
        assert np.isnan(column).tolist() == [r not in scores for r in fused.rows.tolist()]
    again = fuse(Query(), found, keep)
    assert again.rows.tobytes() == fused.rows.tobytes()
    assert again.scores.tobytes() == fused.scores.tobytes()


@settings(deadline=None)
@given(SEVERAL, st.integers(1, 20))
def test_a_quota_is_kept(lists: dict[str, dict[int, float]], keep: int) -> None:
    found = {name: listed(scores) for name, scores in lists.items()}
    fused = Fusion(WEIGHTS, "quota")(Query(), found, keep).rows.tolist()
    total = sum(WEIGHTS[name] for name in lists)
    sure = {
        row
        for name, candidates in found.items()
        for row in candidates.rows.tolist()[: math.ceil(WEIGHTS[name] / total * keep)]
    }
    assert len(fused) == min(keep, len({row for scores in lists.values() for row in scores}))
    assert sure <= set(fused) if len(sure) <= keep else set(fused) <= sure
    expected = naive(lists, "sum", "min_max", 60, None)
    assert all(expected[a] >= expected[b] - 1e-5 for a, b in pairwise(fused))


@settings(deadline=None)
@given(SEVERAL, st.integers(1, 20))
def test_channels_take_turns_as_on_a_playground(
    lists: dict[str, dict[int, float]], keep: int
) -> None:
    found = {name: listed(scores) for name, scores in lists.items()}
    names = sorted(lists, key=lambda name: (-WEIGHTS[name], name))
    taken: list[int] = []
    for turn in range(13):
        for name in names if turn % 2 == 0 else names[::-1]:
            row = found[name].rows.tolist()[turn : turn + 1]
            taken += [r for r in row if r not in taken]
    assert Fusion(WEIGHTS, "snake")(Query(), found, keep).rows.tolist() == taken[:keep]


def requests(good: str, seed: int, n: int = 60) -> list[Judged]:
    """`good` begins with what is wanted, the other channel is noise."""
    draw, made = np.random.default_rng(seed), list[Judged]()
    for _ in range(n):
        rows = draw.permutation(100)[:20].tolist()
        bad = listed({row: 20.0 - i for i, row in enumerate(draw.permutation(100)[:20].tolist())})
        right = listed({row: 20.0 - i for i, row in enumerate(rows)})
        made.append(({"a": bad, "b": bad} | {good: right}, dict.fromkeys(rows[:5], 1.0)))
    return made


def test_a_fusion_that_loses_to_its_best_channel_is_refused() -> None:
    found = fit(requests("a", 1), ["a", "b"], Fusion({"a": 0.2, "b": 0.8}))
    assert found.refused
    assert found.best == "a"
    assert found.metrics["fusion"] == found.metrics["a"]
    assert found.weights["a"] > 1000 * found.weights["b"] > 0  # which still fills in behind
    assert found.gain[0] <= 0
    assert found.metrics["before"][0] < found.metrics["a"][0]


def test_a_refused_fusion_keeps_the_order_of_its_best_channel() -> None:
    short = Candidates(np.array([7, 3], np.int32), np.array([9.0, 8.0], np.float32))
    noise = listed({row: 50.0 - row for row in range(20, 50)})
    found = fit(requests("a", 1), ["a", "b"], Fusion({"a": 0.2, "b": 0.8}))
    fused = found.fusion()(Query(), {"a": short, "b": noise}, 10)
    assert fused.rows.tolist() == [7, 3, 20, 21, 22, 23, 24, 25, 26, 27]


def test_channels_that_know_half_each_are_fused() -> None:
    draw, made = np.random.default_rng(3), list[Judged]()
    for _ in range(2 * FEWEST + 40):
        wanted = draw.permutation(100)[:10]
        lists = {}
        for name in ("a", "b"):  # both find all that is wanted, among other noise each
            noise = draw.permutation(np.arange(100, 200))[:20]
            rows = np.concatenate([wanted, noise])
            scores = 1 + 0.5 * (rows < 100) + draw.normal(size=30)
            lists[name] = listed(dict(zip(rows.tolist(), scores.tolist(), strict=True)))
        made.append((lists, dict.fromkeys(wanted.tolist(), 1.0)))
    found = fit(made, ["a", "b"], Fusion({"a": 1.0, "b": 0.0}))
    assert not found.refused
    assert found.gain[1] > 0
    assert 0.2 < found.weights["a"] < 0.8
    assert found.metrics["fusion"][1] > found.metrics["a"][0]
    middle = found.curves["a"][4:7]
    assert max(middle) > max(found.curves["a"][0], found.curves["a"][10])


@settings(deadline=None, max_examples=50)
@given(st.lists(SEVERAL, min_size=1, max_size=4), st.sampled_from(sorted(NORMS)))
def test_what_is_fitted_is_what_is_served(
    many: list[dict[str, dict[int, float]]], norm: str
) -> None:
    weights = np.array([WEIGHTS[name] for name in FUSED])
    lists = [{n: listed(one.get(n, {})) for n in FUSED} for one in many]
    grades = [{row: 1.0 + row % 3 for row in range(0, 30, 4)} for _ in many]
    fuse = Fusion(WEIGHTS, "sum", norm)
    sheet = Sheet.of(list(zip(lists, grades, strict=True)), FUSED, fuse)
    for found, wanted, value in zip(
        lists, grades, sheet.ndcg(weights / weights.sum()), strict=True
    ):
        rows = fuse(Query(), found, 10).rows.tolist()
        gains = np.array([wanted.get(row, 0.0) for row in rows])
        assert value == pytest.approx(ndcg_at_k(gains, np.array(list(wanted.values())), 10))


def opened(path: Path, encoder: str, fitted: dict[str, object] | None) -> Generation:
    config = parse({"vectors": {"encoder": encoder}})
    table = config.model_dump(mode="json")
    Manifest("g", until=0, past=0, actions=config.all_actions, config=table).write(path)
    if fitted is not None:
        (path / "fusion").mkdir()
        (path / "fusion/search.json").write_text(json.dumps(fitted))
    return Generation.open(path, check=False)


def test_words_count_less_beside_a_pretrained_encoder(tmp_path: Path) -> None:
    for encoder, share in (("", 0.7), ("minilm", 0.3)):
        path = tmp_path / (encoder or "lsa")
        path.mkdir()
        own = fusion_of(opened(path, encoder, None), parse({}), "search")
        assert own.weights == pytest.approx({"bm25": share, "vector": 1 - share})


def test_the_config_may_overrule_what_was_fitted(tmp_path: Path) -> None:
    fitted = {"weights": {"bm25": 0.25, "vector": 0.75}, "method": "rrf", "norm": "dbsf"}
    generation = opened(tmp_path, "", fitted)
    assert fusion_of(generation, parse({}), "search").method == "rrf"
    assert fusion_of(generation, parse({}), "search").weights == fitted["weights"]

    def other(**settings: object) -> Fusion:
        config = parse({"scenes": {"search": {"recall": settings}}})
        return fusion_of(generation, config, "search")

    assert other(fit=False).weights == pytest.approx({"bm25": 0.7, "vector": 0.3})
    assert other(fusion="snake").method == "snake"
    assert configured(parse({}).scenes["home"].recall, False).weights["item_cf"] == 0.5


def test_a_fusion_of_another_version_is_named(tmp_path: Path) -> None:
    generation = opened(tmp_path, "", {"weights": {}, "method": "best", "norm": "min_max"})
    with pytest.raises(BadGeneration, match=r"search\.json"):
        fusion_of(generation, parse({}), "search")
