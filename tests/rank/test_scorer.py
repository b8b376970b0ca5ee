"""Rank as a stage: what was trained is what serves, and when it serves."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import lightgbm as lgb
import numpy as np
import pytest
import torch

from features.fold import ItemCounters
from funnel.config import parse
from funnel.errors import BadConfig, BadGeneration
from funnel.generation import Generation
from funnel.log import read
from funnel.stage import Cut
from funnel.types import Candidates, History, Query
from jobs import train_prerank, train_rank
from jobs.judged import Judged
from jobs.train_rank import Part, above
from rank import build
from rank.models import MODELS
from rank.scorer import Network, positive, save
from tests.rank.shop import ITEMS, N, shop, split


@pytest.fixture(scope="module")
def generation(work):
    return Generation.open(work.draft)


@pytest.fixture(scope="module")
def scorer(generation, work):
    return Network.open(generation, work.config, "home")


@pytest.fixture(scope="module")
def logged(work):
    return list(read(work.samples / "home"))


def logits(network, query, candidates):
    """Those that order."""
    return network.logits(query, candidates)[:, 0]


def test_saved_and_opened_again_it_scores_the_same(work, scorer, generation, logged, tmp_path):
    reader = scorer.reader
    torch.manual_seed(1)
    model = MODELS["deepfm"](scorer.model.shape).eval()
    shutil.copytree(work.draft, tmp_path / "g")
    save(tmp_path / "g/rank/home", model, scorer.encoding, reader, {"on": True})
    opened = Network.open(Generation.open(tmp_path / "g"), work.config, "home")
    own = Network(model, scorer.encoding, reader)
    for one in logged[:3]:
        expected = logits(own, one.query, one.candidates)
        assert np.array_equal(logits(opened, one.query, one.candidates), expected)
        assert expected.dtype == np.float32


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="no list of this system's maps")
def test_weights_stay_in_the_mapped_file_that_processes_share(scorer, generation):
    name = "rank/home/model.safetensors"
    maps = Path("/proc/self/maps").read_text().splitlines()
    spans = [line.split()[0].split("-") for line in maps if line.endswith(name)]
    assert str(generation.path / name) in "\n".join(maps)
    for parameter in scorer.model.parameters():
        at = parameter.data_ptr()
        assert any(int(low, 16) <= at < int(high, 16) for low, high in spans)


def test_serving_scores_what_training_scored(scorer, logged):
    """Requests joined as in training, and one by one as in serving."""
    requests = logged[:6]
    fields = [scorer.reader.assembler.fields(one.query, one.candidates) for one in requests]
    together = scorer.forward(scorer.encoding(scorer.reader.raw(fields)))[:, 0]
    alone = np.concatenate([logits(scorer, one.query, one.candidates) for one in requests])
    assert together == pytest.approx(alone, abs=1e-5)


def test_a_score_does_not_depend_on_the_other_candidates(scorer, logged):
    query, found = logged[0].query, logged[0].candidates
    order = np.random.default_rng(1).permutation(N)[:7]
    part = logits(scorer, query, found.take(order))
    assert part == pytest.approx(logits(scorer, query, found)[order], abs=1e-6)


def test_what_it_never_saw_scores_too(scorer, generation):
    """No user, no history, no evidence, items of the end of the catalogue."""
    rows = np.array([0, 149, 70], np.int32)
    found = Candidates(rows, np.zeros(3, np.float32))
    for user in ("", "nobody"):
        scores = logits(scorer, Query(user_id=user, at=10**12), found)
        assert np.isfinite(scores).all()
    assert logits(scorer, Query(), Candidates.empty()).shape == (0,)


def test_the_history_moves_the_scores(scorer, generation, work):
    clicks = np.full(4, work.config.all_actions.index("click"), np.int8)
    rows, at = np.arange(50, dtype=np.int32), work.until
    means = []
    for taste in (0, 1):
        done = np.arange(4, dtype=np.int32) * 5 + taste
        history = History(done, clicks, np.full(4, at - 3_600_000))
        query = Query(user_id="u01", at=at, history=history)
        scores = logits(scorer, query, Candidates(rows, np.zeros(50, np.float32)))
        means.append([scores[rows % 5 == taste].mean(), scores[rows % 5 != taste].mean()])
    assert all(own > others for own, others in means)


def test_the_stage_keeps_the_best_with_the_chance_of_a_click(generation, work, scorer, logged):
    counters = ItemCounters.open(generation)
    stage = build(generation, configured(work.config, "home", "on"), "home", counters)
    query, found = logged[0].query, logged[0].candidates
    before = np.linspace(-1, 1, N).astype(np.float32)
    kept = stage.run(query, found.with_columns({"prerank": before}))
    assert len(kept) == 8
    assert np.array_equal(kept.columns["rank"], kept.scores)
    meta = generation.json("rank/home/meta.json")
    own, head = logits(scorer, query, found), meta["heads"][0]
    scale, offset = head["platt"].values()
    value = own + meta["blend"]["weight"] * before
    assert np.array_equal(kept.rows, found.scored(value, "rank").top(8).rows)
    place = np.array([list(found.rows).index(row) for row in kept.rows])
    expected = 1 / (1 + np.exp(-(scale * own[place] + offset)))
    assert kept.columns["p.click"] == pytest.approx(expected, rel=1e-5)


def test_counters_are_read_only_where_prerank_did_not(generation, work, logged):
    counters = ItemCounters.open(generation)
    stage = build(generation, configured(work.config, "home", "on"), "home", counters)
    query, found = logged[0].query, logged[0].candidates
    name = counters.names[0]
    assert np.isin(stage.run(query, found).columns[name], found.columns[name]).all()
    bare = Candidates(found.rows, found.scores, {"recall": found.scores})
    kept = stage.run(query, bare)
    assert np.array_equal(kept.columns[name], counters.hydrate(query, kept.rows)[name])


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
    path = tmp_path / "g/rank/home/meta.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"on": on}))
    generation = Generation.open(tmp_path / "g")
    settings = configured(work.config, scene, model)
    stage = build(generation, settings, scene, ItemCounters.open(generation))
    assert isinstance(stage, Cut) == cut


def configured(config, scene, model):
    table = config.model_dump(mode="json")
    table["scenes"][scene]["rank"]["model"] = model
    return parse(table)


def test_on_without_a_model_is_an_error_that_says_what_to_do(generation, work):
    settings = configured(work.config, "search", "on")
    with pytest.raises(BadGeneration, match=r'no rank model for scene .search.*"auto"'):
        build(generation, settings, "search", ItemCounters.open(generation))


@pytest.mark.parametrize("change", ["features", "spec", "shape", "weights"])
def test_a_model_of_other_features_or_a_broken_one_is_refused(work, tmp_path, change):
    shutil.copytree(work.draft, tmp_path / "g")
    folder = tmp_path / "g/rank/home"
    meta = json.loads((folder / "meta.json").read_text())
    if change == "weights":
        weights = (folder / "model.safetensors").read_bytes()
        (folder / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    else:
        changed = {
            "features": meta["features"] | {"numbers": []},
            "spec": "another",
            "shape": meta["shape"] | {"width": 5},
        }
        (folder / "meta.json").write_text(json.dumps(meta | {change: changed[change]}))
    with pytest.raises(BadGeneration, match=r"model\.safetensors.*build"):
        Network.open(Generation.open(tmp_path / "g"), work.config, "home")


def test_the_job_judges_every_stage_on_the_same_requests(work):
    meta = json.loads((work.draft / "rank/home/meta.json").read_text())
    figures = meta["metrics"]["nDCG@10"]
    assert list(figures) == ["recall", "prerank", "rank"]
    assert figures["rank"] > figures["recall"] + 0.1
    assert meta["on"] == (meta["metrics"]["likelier"]["mean"] > 0)
    assert meta["metrics"]["heads"]["click"]["ECE"] < 0.1
    before = json.loads((work.draft / "prerank/home/meta.json").read_text())["metrics"]["nDCG@10"]
    assert figures["prerank"] == before["prerank"]


@pytest.mark.parametrize("network", sorted(MODELS))
def test_every_network_is_trained_saved_and_served(tmp_path, network):
    work = shop(tmp_path, requests=120)
    settings = work.config.model_dump(mode="json")
    settings["rank"]["network"] = network
    work = replace(work, config=parse(settings))
    metrics = train_rank.run(work)["home"]
    figures = metrics["nDCG@10"]
    assert figures["rank"] > figures["recall"] + 0.1
    generation = Generation.open(work.draft)
    meta = generation.json("rank/home/meta.json")
    assert meta["network"] == network
    scorer = Network.open(generation, work.config, "home")
    assert isinstance(scorer.model, MODELS[network])
    query, found = next((one.query, one.candidates) for one in read(work.samples / "home"))
    stage = build(
        generation, configured(work.config, "home", "on"), "home", ItemCounters.open(generation)
    )
    kept = stage.run(query, found)
    assert [head["action"] for head in meta["heads"]] == ["click", "cart", "purchase"]
    clicks, buys = kept.columns["p.click"], kept.columns["p.purchase"]
    assert ((buys > 0) & (buys <= clicks) & (clicks < 1)).all()


def test_text_vectors_are_taken_where_the_config_says_so(tmp_path):
    work = shop(tmp_path, requests=120)
    draw = np.random.default_rng(1)
    vectors = draw.normal(size=(ITEMS, 6)).astype(np.float32)
    vectors[::5] = 0
    for path, _ in work.drafts:
        (path / "vector").mkdir()
        np.save(path / "vector/text.npy", vectors)
    settings = work.config.model_dump(mode="json")
    settings["rank"] |= {"vectors": True, "epochs": 1}
    work = replace(work, config=parse(settings))
    train_rank.run(work)
    generation = Generation.open(work.draft, check=False)
    network = Network.open(generation, work.config, "home")
    assert network.model.shape.vectors == 6
    query, found = next((one.query, one.candidates) for one in read(work.samples / "home"))
    before = network.logits(query, found)
    raw = network.reader.raw([network.reader.fields(query, found)])
    np.testing.assert_array_equal(raw.vectors, vectors[found.rows])
    new = Candidates(np.array([ITEMS + 3], np.int32), np.ones(1, np.float32))
    assert np.isfinite(network.logits(query, new)).all()
    np.save(work.draft / "vector/text.npy", vectors[:, :3])
    narrow = Generation.open(work.draft, check=False)
    with pytest.raises(BadGeneration, match="takes text vectors of 6 dimensions"):
        Network.open(narrow, work.config, "home")
    np.save(work.draft / "vector/text.npy", -vectors)
    other = Network.open(Generation.open(work.draft, check=False), work.config, "home")
    assert np.abs(other.logits(query, found) - before).max() > 1e-4


def test_prerank_learns_what_rank_says(tmp_path):
    work = shop(tmp_path, requests=160)
    settings = work.config.model_dump(mode="json")
    settings["prerank"] |= {"objective": "distilled", "trees": 80}
    settings["rank"]["epochs"] = 8
    work = replace(work, config=parse(settings))
    train_prerank.run(work)
    place = work.draft / "prerank/home"
    first = (place / "model.txt").read_text()
    metrics = train_rank.run(work)["home"]
    meta = json.loads((place / "meta.json").read_text())
    assert meta["taught"]
    assert meta["metrics"]["as rank says"] > 0.8
    assert (place / "teacher.txt").read_text() == first != (place / "model.txt").read_text()
    assert metrics["nDCG@10"]["prerank"] == meta["metrics"]["nDCG@10"]["prerank"]
    again = train_rank.run(work)["home"]  # with the same teacher
    assert again == metrics
    # The student is nearer to the network than its teacher was.
    network = Network.open(Generation.open(work.draft, check=False), work.config, "home")
    late = split(work)[1]
    said = np.concatenate([network.logits(one.query, one.candidates)[:, 0] for one in late])
    matrix = [network.reader.assembler.matrix(one.query, one.candidates) for one in late]
    near = [
        np.corrcoef(lgb.Booster(model_file=str(place / name)).predict(np.concatenate(matrix)), said)
        for name in ("teacher.txt", "model.txt")
    ]
    assert near[1][0, 1] > near[0][0, 1]


def test_too_few_requests_train_no_model(tmp_path):
    work = shop(tmp_path, requests=30)
    metrics = train_rank.run(work)
    assert metrics["home"]["on"] is False
    assert "30 requests" in metrics["home"]["why"]
    assert not (work.draft / "rank/home").exists()


def test_training_without_prerank_learns_to_beat_recall(tmp_path):
    work = shop(tmp_path, requests=80)
    metrics = train_rank.run(work)["home"]
    assert metrics["nDCG@10"]["prerank"] == metrics["nDCG@10"]["recall"]


def test_places_count_within_each_request(work):
    judged = Judged.of(split(work)[0][:3])
    part = Part(judged, np.random.default_rng(0).random(3 * N).astype(np.float32))
    places = part.places()
    for request in range(3):
        own = slice(request * N, (request + 1) * N)
        assert np.array_equal(np.argsort(places[own]), np.argsort(-part.before[own]))
    kept = part.take(places < 5)
    assert kept.judged.sizes.tolist() == [5, 5, 5]
    assert np.array_equal(kept.judged.rows, judged.rows[places < 5])


def test_what_did_not_reach_rank_stays_below_in_its_order():
    reached = np.array([True, False, True, False, False])
    order = np.argsort(-above(np.array([-7.0, 9.0]), reached, np.arange(5)))
    assert order.tolist() == [2, 0, 1, 3, 4]


def test_positive_actions_are_the_configs(generation):
    actions = generation.manifest.actions
    liked = positive(generation)
    assert len(liked) == len(actions) + 1
    assert [a for a, yes in zip(actions, liked, strict=False) if yes] == [
        a for a in actions if a in ("click", "cart", "purchase", "like")
    ]
    assert not liked[-1]


def valued(config, value):
    table = configured(config, "home", "on").model_dump(mode="json")
    table["scenes"]["home"]["rank"]["value"] = value
    return parse(table)


def test_a_formula_of_the_config_orders_without_training(generation, work, logged):
    counters = ItemCounters.open(generation)
    query, found = logged[0].query, logged[0].candidates
    value = "p.click * known(item.price, 0) - 0.001 * age.days + 0.01 * item.available"
    settings = valued(work.config, value)
    kept = build(generation, settings, "home", counters).run(query, found)
    every = build(generation, valued(work.config, "0 * rank"), "home", counters).run(query, found)
    assert len(kept) == len(every) == 8
    price = generation.items.numbers("price")[kept.rows]
    created = generation.items.numbers("created_at")[kept.rows]
    age = np.maximum(query.at - created, 0) / 86_400_000
    expected = kept.columns["p.click"] * price - 0.001 * age + 0.01
    assert kept.scores == pytest.approx(expected, rel=1e-5)
    assert (np.diff(kept.scores) <= 0).all()
    assert np.array_equal(kept.columns["value"], kept.scores)
    assert "rank" in kept.columns


def test_a_name_that_nobody_knows_is_an_error_that_lists_those_there_are(generation, work):
    settings = valued(work.config, "p.click * item.cost")
    with pytest.raises(BadConfig, match=r"unknown name 'item\.cost'; known: p\.click.*item\.price"):
        build(generation, settings, "home", ItemCounters.open(generation))
