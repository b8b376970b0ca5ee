"""Prerank: what the trees say while serving is what LightGBM says, and training repeats itself."""

import json
import shutil
from dataclasses import replace

import lightgbm as lgb
import numpy as np
import pytest

from features.fold import ItemCounters
from funnel.config import Prerank, parse
from funnel.errors import BadConfig, BadGeneration
from funnel.generation import Generation
from funnel.log import read
from funnel.metrics import ndcg_at_k
from funnel.stage import Cut
from funnel.types import Candidates, best
from jobs import train_prerank
from prerank import build
from prerank.gbdt import (
    GBDT,
    Model,
    Table,
    begun,
    contributions,
    fit,
    parameters,
    predict,
    start_of,
)
from tests.rank.shop import shop, split


@pytest.fixture(scope="module")
def generation(work):
    return Generation.open(work.draft)


@pytest.fixture(scope="module")
def logged(work):
    return list(read(work.samples / "home"))


def groups(requests=60, n=20, seed=0):
    """Requests whose labels follow the first feature, with the second one missing at times."""
    draw = np.random.default_rng(seed)
    matrix = draw.normal(size=(requests * n, 4)).astype(np.float32)
    matrix[draw.random(len(matrix)) < 0.2, 1] = np.nan
    wish = matrix[:, 0] + draw.normal(size=len(matrix)) * 0.3
    labels = np.where(wish > 1.8, 4.0, np.where(wish > 1.2, 1.0, 0.0)).astype(np.float32)
    return Table(matrix, labels, np.full(requests, n), np.ones(requests, np.float32))


def test_scores_equal_lightgbms(generation, work, logged):
    scorer = GBDT.open(generation, work.config, "home")
    booster = lgb.Booster(model_file=str(work.draft / "prerank/home/model.txt"))
    start = json.loads((work.draft / "prerank/home/meta.json").read_text())["start"]
    for one in logged[:5]:
        matrix = scorer.assembler.matrix(one.query, one.candidates)
        begins = start * np.nan_to_num(one.candidates.columns["recall"])
        expected = booster.predict(matrix, raw_score=True) + begins
        assert scorer.score(one.query, one.candidates) == pytest.approx(expected, rel=1e-6)


def test_a_score_does_not_depend_on_the_other_candidates(generation, work, logged):
    scorer = GBDT.open(generation, work.config, "home")
    query, found = logged[0].query, logged[0].candidates
    order = np.random.default_rng(1).permutation(len(found))[:7]
    alone = scorer.score(query, found.take(order))
    assert np.array_equal(alone, scorer.score(query, found)[order])


def test_no_candidates_have_no_scores(generation, work, logged):
    scorer = GBDT.open(generation, work.config, "home")
    assert scorer.score(logged[0].query, Candidates.empty()).shape == (0,)


@pytest.mark.parametrize("objective", ["lambdarank", "binary"])
def test_training_twice_gives_the_same_model_text(objective):
    settings = Prerank(trees=12, leaves=7, objective=objective)
    texts = [fit(groups(), groups(20, seed=1), settings, 7).model_to_string() for _ in range(2)]
    assert texts[0] == texts[1]
    other = fit(groups(), groups(20, seed=1), settings, 8).model_to_string()
    assert other != texts[0]


@pytest.mark.parametrize("objective", ["lambdarank", "binary"])
def test_the_trees_learn_what_decides(objective):
    booster = fit(groups(), groups(20, seed=1), Prerank(trees=50, objective=objective), 7)
    fresh = groups(30, seed=2)
    scores = predict(booster, fresh.matrix).reshape(30, 20)
    values = [
        ndcg_at_k(labels[np.argsort(-own, kind="stable")], labels, 10)
        for labels, own in zip(fresh.labels.reshape(30, 20), scores, strict=True)
    ]
    assert np.mean(values) > 0.8


def test_early_stopping_keeps_the_best_number_of_trees():
    noise = groups(20, seed=1)
    noise = replace(noise, matrix=noise.matrix[::-1].copy())
    booster = fit(groups(), noise, Prerank(trees=200), 7)
    assert 1 <= booster.num_trees() < 100


def test_gains_are_those_of_the_metric_whatever_the_weights():
    params = parameters(Prerank(), np.array([0, 0.5, 4], np.float32), 7, 1000)
    assert params["label_gain"] == pytest.approx([0, 2**0.5 - 1, 15])


def test_a_request_counts_as_much_as_its_weight():
    """Half of the requests want the opposite; those that weigh more are learned."""
    one = groups(20)
    odd = np.arange(20) % 2 == 1
    owner = np.repeat(odd, one.sizes)
    labels = np.where(owner, one.labels.max() - one.labels, one.labels)
    table = replace(one, labels=labels, weights=np.where(odd, 0.01, 1).astype(np.float32))
    scores = predict(fit(table, None, Prerank(trees=20), 7), one.matrix)
    assert np.corrcoef(scores, one.labels)[0, 1] > 0.3


def test_a_candidate_counts_as_many_as_it_stands_for():
    """Half of a request wants the opposite; what stands for more is learned."""
    one = groups(20)
    odd = np.arange(len(one.labels)) % 2 == 1
    labels = np.where(odd, one.labels.max() - one.labels, one.labels)
    many = np.where(odd, 1, 100).astype(np.float32)
    scores = predict(
        fit(replace(one, labels=labels, stands_for=many), None, Prerank(trees=20), 7), one.matrix
    )
    assert np.corrcoef(scores, one.labels)[0, 1] > 0.3


def sure(requests, seed, n=30, features=12):
    """Recall's column nearly decides; the others say nothing."""
    draw = np.random.default_rng(seed)
    matrix = draw.normal(size=(requests * n, features)).astype(np.float32)
    wish = matrix[:, 0] + draw.normal(size=len(matrix)) * 0.3
    labels = (wish > 1.5).astype(np.float32)
    return Table(matrix, labels, np.full(requests, n), np.ones(requests, np.float32))


def test_the_start_is_half_of_what_makes_the_wanted_likeliest():
    table, names = sure(40, 3), ("recall", *(f"f{k}" for k in range(11)))

    def likely(scale):
        total = 0.0
        for request in range(40):
            own = slice(request * 30, (request + 1) * 30)
            z, wanted = scale * table.matrix[own, 0].astype(float), table.labels[own] > 0
            total += (z - np.log(np.exp(z).sum()))[wanted].sum() / max(wanted.sum(), 1)
        return total

    tried = np.geomspace(0.1, 50, 2000)
    best_scale = tried[np.argmax([likely(scale) for scale in tried])]
    assert start_of(table, names) == pytest.approx(best_scale / 2, rel=0.01)
    assert start_of(table, names[::-1][:11]) == 0
    flat = replace(table, matrix=np.zeros_like(table.matrix))
    assert start_of(flat, names) == 0


def test_trees_that_begin_with_recall_keep_what_it_knows_when_there_is_little_to_learn_from():
    names = ("recall", *(f"f{k}" for k in range(11)))
    train, valid, fresh = sure(12, 1), sure(5, 2), sure(200, 4)
    found = {}
    for start in (0.0, start_of(train, names)):
        tables = [replace(t, begins=begun(t.matrix, names, start)) for t in (train, valid)]
        model = Model(fit(*tables, Prerank(), 7), names, start)
        expected = model.booster.predict(fresh.matrix, raw_score=True) + start * fresh.matrix[:, 0]
        assert model.predict(fresh.matrix) == pytest.approx(expected, rel=1e-5, abs=1e-5)
        scores, labels = model.predict(fresh.matrix).reshape(200, 30), fresh.labels.reshape(200, 30)
        values = [
            ndcg_at_k(own[np.argsort(-said, kind="stable")], own, 10)
            for own, said in zip(labels, scores, strict=True)
            if own.any()
        ]
        found[start > 0] = np.mean(values)
    assert found[True] > found[False] + 0.03


def test_progress_counts_trees():
    heard = []
    fit(groups(), None, Prerank(trees=3), 7, lambda tree, most: heard.append((tree, most)))
    assert heard == [(1, 3), (2, 3), (3, 3)]


def test_the_stage_adds_counters_and_keeps_the_best(generation, work, logged):
    counters = ItemCounters.open(generation)
    stage = build(generation, work.config, "home", counters)
    query, found = logged[0].query, logged[0].candidates
    bare = Candidates(found.rows, found.scores, {"recall": found.scores})
    kept = stage.run(query, bare)
    assert len(kept) == 15
    assert set(counters.names) < set(kept.columns)
    assert np.array_equal(kept.columns["prerank"], kept.scores)
    hydrated = bare.with_columns(counters.hydrate(query, bare.rows))
    scores = GBDT.open(generation, work.config, "home").score(query, hydrated)
    assert np.array_equal(kept.rows, bare.rows[best(scores, bare.rows, 15)])


@pytest.mark.parametrize(
    ("scene", "model", "on", "cut"),
    [
        ("home", "auto", True, False),
        ("home", "auto", False, True),
        ("home", "on", False, False),
        ("home", "off", True, True),
        ("search", "auto", True, True),
    ],
)
def test_the_config_and_validation_decide_whether_the_model_is_used(
    work, tmp_path, scene, model, on, cut
):
    shutil.copytree(work.draft, tmp_path / "g")
    path = tmp_path / "g/prerank/home/meta.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"on": on}))
    generation = Generation.open(tmp_path / "g")
    settings = configured(work.config, scene, model)
    stage = build(generation, settings, scene, ItemCounters.open(generation))
    assert isinstance(stage, Cut) == cut


def configured(config, scene, model):
    table = config.model_dump(mode="json")
    table["scenes"][scene]["prerank"]["model"] = model
    return parse(table)


def test_on_without_a_model_is_an_error_that_says_what_to_do(generation, work):
    with pytest.raises(BadGeneration, match=r'no prerank model for scene .search.*"auto"'):
        build(
            generation,
            configured(work.config, "search", "on"),
            "search",
            ItemCounters.open(generation),
        )


@pytest.mark.parametrize("change", ["features", "spec", "text"])
def test_a_model_of_other_features_or_a_broken_one_is_refused(work, tmp_path, change):
    shutil.copytree(work.draft, tmp_path / "g")
    folder = tmp_path / "g/prerank/home"
    meta = json.loads((folder / "meta.json").read_text())
    if change == "text":
        (folder / "model.txt").write_text("tree\nversion=v4\n")
    else:
        changed = {"features": meta["features"][1:], "spec": "another"}[change]
        (folder / "meta.json").write_text(json.dumps(meta | {change: changed}))
    with pytest.raises(BadGeneration, match=r"model\.txt"):
        GBDT.open(Generation.open(tmp_path / "g"), work.config, "home")


@pytest.mark.parametrize(
    "more", [{"windows": ["1h"]}, {"extra": [{"name": "n", "fold": "count", "of": "history"}]}]
)
def test_a_model_refuses_features_that_the_config_has_got_since(work, generation, more):
    table = work.config.model_dump(mode="json")
    table["features"] |= more
    other = parse(table)
    with pytest.raises(BadConfig, match=r"it adds (log\.live\..*in1h|extra\.n)"):
        GBDT.open(generation, other, "home")
    relabelled = replace(generation.manifest, config=other.model_dump(mode="json"))
    with pytest.raises(BadGeneration, match=r"trained on other features .*(\.in1h|extra\.n)"):
        GBDT.open(Generation(generation.path, relabelled), other, "home")


def test_the_job_beats_recall_and_says_what_mattered(work):
    meta = json.loads((work.draft / "prerank/home/meta.json").read_text())
    assert meta["on"]
    figures = meta["metrics"]["nDCG@10"]
    assert figures["prerank"] > figures["recall"] + 0.1
    assert meta["metrics"]["GAUC"] > 0.6
    assert next(iter(meta["importance"])) in ("affinity.category", "gap.price")
    assert meta["shap"].keys() <= set(meta["features"])
    assert list(meta["shap"].values()) == sorted(meta["shap"].values(), reverse=True)


def test_the_latest_requests_validate(work):
    train, valid = split(work)
    assert len(valid) == 32
    assert max(one.query.at for one in train) < min(one.query.at for one in valid)


def test_too_few_requests_train_no_model(tmp_path):
    work = shop(tmp_path, requests=30)
    metrics = train_prerank.run(work)
    assert metrics["home"]["on"] is False
    assert "30 requests" in metrics["home"]["why"]
    assert not (work.draft / "prerank/home").exists()


def test_contributions_add_up_to_the_score_and_name_what_moves_it():
    table = groups()
    booster = fit(table, None, Prerank(trees=20), 1)
    parts = booster.predict(table.matrix, pred_contrib=True, num_threads=1)
    assert parts.sum(axis=1) == pytest.approx(predict(booster, table.matrix), abs=1e-4)
    found = contributions(booster, table.matrix, ("wish", "other", "c", "d"), rows=10_000)
    assert next(iter(found)) == "wish"
    expected = np.abs(parts[:, 0]).mean()
    assert found["wish"] == pytest.approx(expected, abs=1e-5)
    assert contributions(booster, table.matrix[:0], ("wish", "other", "c", "d")) == {}
