"""
One TOML file configures everything. Every setting has its default and its meaning here and nowhere
else; `funnel config` prints them. A misspelt key is an error that names the known ones.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from funnel.errors import BadConfig
from funnel.extra import Fold, Of, problem, span_days
from funnel.formula import Formula

ACTIONS = ("impression", "click", "cart", "purchase", "like", "dislike", "rating")
CHANNELS = (
    "bm25",
    "tfidf",
    "vector",
    "two_tower",
    "item_cf",
    "swing",
    "graph",
    "user_cf",
    "als",
    "spectral",
    "live",
    "popular",
    "new",
)
STAGES = ("recall", "prerank", "rank", "rerank")

Share = Annotated[float, Field(ge=0.0, lt=1.0)]
Positive = Annotated[int, Field(gt=0)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=False)


class Data(Section):
    """What the columns of the data set mean."""

    actions: tuple[str, ...] = Field((), description="action names beside the built-in ones")
    positive: dict[str, float] = Field(
        {"click": 1.0, "cart": 2.0, "purchase": 4.0, "like": 1.0},
        description="actions that say a user wants an item, and how much each is worth",
    )
    text: dict[str, float] = Field(
        {"title": 2.0, "brand": 1.0, "category": 1.0, "description": 1.0},
        description="searchable item columns with their boosts",
    )
    categorical: tuple[str, ...] = Field(
        ("category", "brand"), description="item columns with one value out of a set"
    )
    multi: tuple[str, ...] = Field((), description="item columns with a list of values")
    numeric: tuple[str, ...] = Field(("price",), description="item columns with numbers")
    filterable: tuple[str, ...] = Field(
        ("category", "brand", "price", "available", "created_at"),
        description="item columns that requests may filter on, and sort by where they are numbers",
    )
    user_categorical: tuple[str, ...] = Field((), description="user columns used as features")
    product_key: str = Field("", description="item column that equals for the same product")
    language: str = Field("en", description="language of the texts, for stemming (en, zh, none)")
    items_at: int = Field(
        0,
        ge=0,
        description="epoch ms; items/ holds what was upserted and deleted before, so that builds "
        "fold only later changes into it; 0 folds all that log.dir has",
    )


Negative = Literal["even", "popular", "hard"]


class Build(Section):
    """From a data set to a generation."""

    root: str = Field("var/generations", description="directory of the generations")
    master: str = Field("local[*]", description="Spark master")
    driver_memory: str = Field("2g", description="memory of the Spark driver")
    partitions: Positive = Field(4, description="Spark shuffle partitions")
    day_events: Positive = Field(
        50_000, description="events that a partition of days has at least, where they last"
    )
    archive: bool = Field(
        True, description="events of log.dir join those of the data set; each event id counts once"
    )
    holdout: Share = Field(0.1, description="share of the latest events kept for `evaluate`")
    sample_share: Share = Field(
        0.25, description="share of the training events that prerank and rank learn from"
    )
    valid_share: Share = Field(0.2, description="share of the samples used for validation")
    requests: Positive = Field(10_000, description="training requests sampled for a scene")
    negatives: Positive = Field(
        150, description="recalled candidates kept for a request that is learned from"
    )
    negative_kinds: dict[Negative, Annotated[float, Field(ge=0.0)]] = Field(
        {"even": 1.0, "hard": 2.0},
        description="shares of the negatives: drawn evenly, by popularity, or hard: from the top",
    )
    from_log: str = Field(
        "", description="a log's directory: prerank and rank learn from what was scored there"
    )
    seed: int = Field(7, description="seed of everything random in a build")


class Extra(Section):
    """A feature that the config declares (`funnel.extra`); its name gets `extra.` before it."""

    name: str
    fold: Fold
    of: Of
    actions: tuple[str, ...] = Field((), description="what is counted; empty: data.positive")
    over: tuple[str, ...] = Field((), description="what is divided by; empty: impressions")
    window: str = Field("", description="such as 6h or 7d")
    half_life: float | None = Field(None, gt=0.0, description="in days")
    prior: float | None = Field(None, gt=0.0, description="what the prior of a rate is worth")
    attribute: str = Field("", description="actions on items that share it with the candidate")
    n: int | None = Field(None, ge=1, le=20, description="newest actions looked at")
    default: float | None = Field(None, description="where there is no value")
    age_days: float | None = Field(None, gt=0.0, description="older actions do not count")

    @field_validator("actions", "over", mode="before")
    @classmethod
    def _one(cls, names: Any) -> Any:
        return (names,) if isinstance(names, str) else names


class Features(Section):
    """Histories and counters."""

    history: Positive = Field(100, description="newest actions kept for a user")
    half_lives: tuple[float, ...] = Field(
        (1.0, 7.0, 30.0), description="half-lives of the item counters, in days"
    )
    windows: tuple[str, ...] = Field(
        (), description="windows that items are counted in too, such as 1h, 1d, 7d, 30d"
    )
    pairs: int = Field(
        0, ge=0, description="most pairs of a query and an item that are counted; 0 counts none"
    )
    users: bool = Field(False, description="whether what users did is counted beside histories")
    extra: tuple[Extra, ...] = Field(
        (), description="features declared here, a table each: see docs/features.md"
    )
    settle_ms: int = Field(
        2000, ge=0, description="item counters are read as of this long before the request"
    )

    @field_validator("windows")
    @classmethod
    def _whole(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if not span_days(name):
                raise ValueError(
                    f"features.windows: '{name}' is no window; hours (1h to 24h) or days (1d to "
                    "60d) are"
                )
        return names


class Store(Section):
    """The live store: any Redis 7+ or Valkey server."""

    url: str = Field(
        "",
        description="redis://[:password@]host:port/db, rediss://… with ?ssl_ca_certs=FILE, or "
        "redis+cluster://host:port; "
        "empty starts an embedded Valkey",
    )
    dir: str = Field("var/valkey", description="directory of the embedded server")
    timeout_ms: Positive = Field(50, description="longest wait for the store in a request")
    keep_days: Positive = Field(90, description="a user not seen for this long is forgotten")
    log_length: Positive = Field(1_000_000, description="events kept in the live log")
    dead_length: Positive = Field(10_000, description="refused events that are kept to be read")
    catalogue_length: Positive = Field(
        100_000, description="upserts and deletes of items kept in the live log, in batches"
    )


class Channel(Section):
    limit: int = Field(500, ge=0, description="most items the channel may return; 0 turns it off")
    weight: float | None = Field(
        None,
        ge=0.0,
        description="share in the fusion, where none was fitted; by default 1, but bm25 and vector "
        "together 0.7 and 0.3, or 0.3 and 0.7 with a pretrained encoder",
    )


class RM3(Section):
    """Words of the best hits join the query (pseudo-relevance feedback)."""

    docs: int = Field(0, ge=0, description="best hits whose words join the query; 0 turns it off")
    terms: Positive = Field(60, description="words that join")
    weight: float = Field(0.6, ge=0.0, le=1.0, description="share of the words that were typed")


class Recall(Section):
    keep: Positive = Field(2000, description="candidates that leave recall")
    budget_ms: Positive = Field(25, description="time before the channels that answered are used")
    channels: dict[str, Channel] = Field(
        default_factory=dict, description="channels and their limits and weights"
    )
    fusion: Literal["auto", "sum", "rrf", "quota", "snake"] = Field(
        "auto",
        description="how channels become one list; auto: sum, or rrf where the build fits it",
    )
    norm: Literal["auto", "min_max", "z_score", "dbsf", "rank"] = Field(
        "auto", description="norm of a channel's scores in a sum; auto: min_max, or as fitted"
    )
    missing: Literal["floor"] | float = Field(
        "floor",
        description="what an item counts in a channel that did not return it: the floor of the "
        "norm (0; for z_score the lowest of the list or -1), or a number on its scale",
    )
    rrf_k: Positive = Field(60, description="rrf: how little the first places stand out")
    fit: bool = Field(
        True, description="use the fusion fitted by the build, where there are judged requests"
    )
    rm3: RM3 = Field(default_factory=RM3)


class Learned(Section):
    keep: Positive = Field(300, description="candidates that leave the stage")
    budget_ms: Positive = Field(10, description="time before the order of the stage before is used")
    model: Literal["auto", "on", "off"] = Field(
        "auto",
        description="auto: used where it beats the stage before it on the validation split",
    )


class Cross(Section):
    """A cross-encoder that reads a search and the best items' texts."""

    model: str = Field(
        "",
        description="a sentence-transformers cross-encoder: a directory; `trained`: the build "
        "makes one, used where it beats rank's order on the validation split; empty: none",
    )
    top: Positive = Field(10, description="items that are read, if there is time")
    weight: float = Field(
        1.0,
        ge=0.0,
        description="of what it says against the rank score; that of a trained one is chosen on "
        "the validation split",
    )
    start: str = Field(
        "minilm",
        description="what training begins with: a transformer's directory, or `minilm`, which the "
        "`encoder` extra carries",
    )
    layers: int = Field(
        3, ge=0, description="of them that are kept, the first ones; fewer read faster; 0: all"
    )
    epochs: Positive = Field(2, description="of its training")


class Ranked(Learned):
    value: str = Field(
        "",
        description="formula to order by, such as `p.click + 4 * p.purchase`; empty: column `rank`",
    )
    cross: Cross = Field(default_factory=Cross)


class Ads(Section):
    """Sponsored items (`sponsor_id`, `bid`) among the others."""

    method: Literal["off", "fixed", "dynamic"] = Field(
        "off",
        description="fixed: the best ad at each of the slots; dynamic: wherever an ad is worth "
        "more than what would stand there",
    )
    slots: tuple[Positive, ...] = Field((3, 8, 13, 18), description="fixed: places of ads, from 1")
    load: float = Field(0.2, ge=0.0, le=1.0, description="largest share of a page that is ads")
    gap: int = Field(3, ge=0, description="places between two ads, at least")
    first: Positive = Field(2, description="the first place that an ad may have")
    floor: float = Field(
        0.5,
        ge=0.0,
        description="least p(click) of an ad, as a share of that of the item it stands before",
    )
    worth: float = Field(
        1.0, ge=0.0, description="what a click is worth to the site, in the money of the bids"
    )
    reserve: float = Field(0.01, ge=0.0, description="least bid, and least price of a click")
    click: str = Field("p.click", description="column that is p(click)")


class Fatigue(Section):
    """What was shown and not wanted."""

    keep: float = Field(
        1.0,
        gt=0.0,
        le=1.0,
        description="share of its value an item keeps when it was shown once "
        "and nothing done; 1 turns it off",
    )
    half_life_hours: float = Field(24.0, gt=0.0, description="so long ago a time counts half")
    most: int = Field(
        0, ge=0, description="shown so many times and nothing done, it is left out; 0: never"
    )
    pages: Positive = Field(20, description="pages of a user that are remembered")

    @property
    def on(self) -> bool:
        return self.keep < 1.0 or self.most > 0


class Explore(Section):
    """Chance among the best, so that the log can tell what other orders would have done."""

    method: Literal["off", "epsilon", "plackett_luce", "thompson"] = Field(
        "off",
        description="epsilon: now and then an even draw; plackett_luce: draws by value; thompson: "
        "by the chance of being the most clicked one",
    )
    epsilon: float = Field(0.1, ge=0.0, le=1.0, description="epsilon: share of places drawn evenly")
    temperature: float = Field(
        0.1, gt=0.0, description="plackett_luce: of the scores brought to [0, 1]"
    )
    pool: Positive = Field(20, description="the best so many are drawn from")
    slots: tuple[Positive, ...] = Field((), description="places that are drawn; empty: all")
    least: float = Field(
        0.002, ge=0.0, le=1.0, description="least chance of each of the pool: bounds the weights"
    )


class Fresh(Section):
    """Guaranteed places for new items: their values are raised until they have their share."""

    share: float = Field(0.0, ge=0.0, lt=1.0, description="of all places shown; 0 turns it off")
    days: float = Field(7.0, gt=0.0, description="items made so many days ago or later are new")
    gain: float = Field(0.02, gt=0.0, description="how fast the controller goes after its target")
    most: float = Field(20.0, gt=1.0, description="largest factor on a new item's value")

    def step(self, places: int, fresh: int) -> float:
        """What a page adds to the logarithm of the factor: it integrates what is missing."""
        return self.gain * (self.share * places - fresh)


class Rerank(Section):
    budget_ms: Positive = Field(10, description="time before the plain top of rank is used")
    rules: str = Field(
        "", description="file of rules: pin, boost, bury, block, only; read again when it changes"
    )
    near_duplicates: bool = Field(True, description="one item of a group of near-duplicates a page")
    near_text: Share = Field(
        0.75, description="texts so alike are duplicates: see docs/rerank.md; 0: not looked at"
    )
    near_vector: Share = Field(
        0.0, description="text vectors of such a cosine are duplicates; 0: not looked at"
    )
    method: Literal["mmr", "sum", "dpp", "ssd"] = Field(
        "mmr", description="how alike items are spread: see docs/rerank.md"
    )
    diversity: float = Field(
        0.2, ge=0.0, le=1.0, description="weight of dissimilarity against score; 0 turns it off"
    )
    window: int = Field(10, ge=2, description="dpp, ssd: an item is held against so many before")
    calibrated: dict[str, Share] = Field(
        default_factory=dict,
        description="categorical attribute = weight of a page's mix being that of the history",
    )
    quotas: dict[str, tuple[Positive, Positive]] = Field(
        default_factory=dict,
        description="categorical attribute = [k, w]: at most k of a value in w places in a row",
    )
    ads: Ads = Field(default_factory=Ads)
    fatigue: Fatigue = Field(default_factory=Fatigue)
    explore: Explore = Field(default_factory=Explore)
    fresh: Fresh = Field(default_factory=Fresh)


class Scene(Section):
    """A named place that asks for pages."""

    limit: Positive = Field(20, description="items on a page where the request does not say")
    exclude: tuple[str, ...] = Field(
        (), description="items the user did these actions on are not shown again"
    )
    recall: Recall = Field(default_factory=Recall)
    prerank: Learned = Field(default_factory=Learned)
    rank: Ranked = Field(default_factory=lambda: Ranked(keep=50, budget_ms=35))
    rerank: Rerank = Field(default_factory=Rerank)
    store_budget_ms: Positive = Field(5, description="time for the user's state")
    neighbours: int = Field(
        1, ge=0, le=20, description="passages of a hit's document shown before and after it"
    )


def _scenes() -> dict[str, Scene]:
    search = {"bm25": Channel(limit=1000), "vector": Channel(limit=500)}
    home = {
        "item_cf": Channel(limit=1000, weight=0.5),
        "vector": Channel(limit=500, weight=0.3),
        "popular": Channel(limit=500, weight=0.2),
    }
    similar = {
        "item_cf": Channel(limit=300, weight=0.5),
        "vector": Channel(limit=300, weight=0.5),
        "popular": Channel(limit=100, weight=0.05),
    }
    return {
        "search": Scene(recall=Recall(channels=search)),
        "home": Scene(recall=Recall(channels=home), exclude=("purchase",)),
        "similar": Scene(recall=Recall(channels=similar)),
    }


class Lexical(Section):
    """Search by words."""

    k1: float = Field(1.2, gt=0.0, description="BM25: how slowly repeated words saturate")
    b: float = Field(0.6, ge=0.0, le=1.0, description="BM25: how much length counts")
    proximity: float = Field(
        0.3, ge=0.0, description="weight of words standing together as in the query; 0 turns it off"
    )
    window: Positive = Field(5, description="words within which they stand together")
    synonyms: str = Field("", description="file of `tv, television` and `tv => television` lines")
    synonym_weight: float = Field(0.6, ge=0.0, le=1.0, description="of a synonym against the word")
    typo_rows: int = Field(
        0, ge=0, description="words in so many items or fewer may be typing errors"
    )
    typo_weight: float = Field(
        0.5, ge=0.0, le=1.0, description="of a word one edit away, squared for two; 0 turns it off"
    )
    min_match: float = Field(
        0.0,
        ge=0.0,
        le=1.0,
        description="share of the query's words an item must have, while there are enough hits",
    )
    min_hits: Positive = Field(20, description="hits that are enough; else one word fewer will do")


class Suggest(Section):
    """Suggestions while a user types."""

    min_users: int = Field(
        3, ge=2, description="different users that must have typed a query before others see it"
    )


class Vectors(Section):
    """The vectors that the build trains."""

    text_width: Positive = Field(256, description="dimensions of the text vectors (LSA)")
    behaviour_width: Positive = Field(64, description="dimensions of the behaviour vectors")
    behaviour: Literal["svd", "item2vec", "two_tower"] = Field(
        "svd",
        description="behaviour vectors from the lists of item_cf, from users' sequences, or the "
        "items of the two towers",
    )
    encoder: str = Field(
        "",
        description="sentence-transformers model: a directory, a name, or `minilm`, which the "
        "encoder extra carries; empty trains LSA",
    )
    index: Literal["auto", "hnsw", "hnsw_sq8", "ivfpq", "flat"] = Field(
        "auto", description="auto: the most exact kind that fits vectors.memory_mb; flat: a scan"
    )
    memory_mb: Positive = Field(8192, description="memory for the index of one kind of vectors")
    ivf_probes: Positive = Field(32, description="lists looked at while searching ivfpq")
    gpu: Literal["auto", "off", "search"] = Field(
        "auto", description="auto: a GPU that is there builds graphs; search: it answers too"
    )
    hnsw_m: Positive = Field(32, description="links of an HNSW node")
    hnsw_build: Positive = Field(120, description="candidates looked at while building HNSW")
    hnsw_search: Positive = Field(256, description="candidates looked at while searching HNSW")


class TwoTower(Section):
    """Queries, users and items in one space: the channel two_tower."""

    width: Positive = Field(64, description="dimensions of the space")
    hidden: Positive = Field(128, description="width of a tower's hidden layer")
    buckets: Positive = Field(
        1 << 16, description="embeddings of words, n-grams and categories, by hash"
    )
    history: Positive = Field(20, description="newest wanted items that make a user")
    temperature: float = Field(0.07, gt=0.0, description="of the softmax over cosines")
    epochs: Positive = Field(20, description="most epochs; fewer where validation stops improving")
    batch: Positive = Field(1024, description="pairs of a batch, each the others' negatives")
    learning_rate: float = Field(5e-3, gt=0.0)
    pairs: Positive = Field(
        2_000_000, description="newest searches, and as many newest wants, that are learned from"
    )


class Behaviour(Section):
    """What counts as wanted together: item_cf, swing, graph, als, user_cf and live."""

    history: Positive = Field(
        200, description="newest wanted items of a user that are learned from"
    )
    neighbours: Positive = Field(200, description="neighbours kept for an item")
    half_life_days: float = Field(
        30.0, gt=0.0, description="item_cf: so far apart in time, a pair counts half"
    )
    window_days: float = Field(
        0.0, ge=0.0, description="item_cf: pairs further apart do not count; 0 counts all"
    )
    session_minutes: int = Field(
        1440, ge=0, description="live: a longer pause begins a new session; 0: no pause does"
    )


class Popular(Section):
    """What most people wanted lately, of all and of each category."""

    by: str = Field(
        "category",
        description="categorical or multi-valued item column whose values have popular items of "
        "their own; empty: none",
    )
    each: Positive = Field(500, description="popular items kept for a value")
    own: float = Field(
        0.5,
        ge=0.0,
        le=1.0,
        description="how much the values count that the user, or the item asked about, is of; 0: "
        "what is popular is so for everybody",
    )


class New(Section):
    """Which items are cold: the channel new. What comes while it serves always is."""

    days: float = Field(14.0, ge=0.0, description="made so many days before the cut, or later")
    events: int = Field(5, ge=0, description="wanted fewer times than this before the cut")
    most: Positive = Field(50_000, description="cold items, the newest ones; they are scanned")


class Prerank(Section):
    """LightGBM."""

    trees: Positive = Field(300, description="most trees; fewer where validation stops improving")
    leaves: Positive = Field(31, description="leaves of a tree")
    learning_rate: float = Field(0.05, gt=0.0)
    objective: Literal["lambdarank", "binary", "distilled"] = Field(
        "lambdarank", description="distilled: lambdarank first, then taught by rank's scores"
    )
    unbiased: bool = Field(
        True, description="clicks on what the log says stood further down count for more"
    )


class Rank(Section):
    """The network and how it is trained."""

    network: Literal["deepfm", "din", "transformer"] = Field(
        "deepfm", description="what it makes of the history: a mean, or what matters to the item"
    )
    width: Positive = Field(16, description="embedding width")
    hidden: tuple[Positive, ...] = Field((128, 64), description="widths of the deep layers")
    unit: int = Field(
        32, ge=2, multiple_of=2, description="din, transformer: width of what is attended to"
    )
    blocks: Positive = Field(1, description="transformer: its blocks")
    dropout: Share = Field(0.3)
    epochs: Positive = Field(20, description="most epochs; fewer where validation stops improving")
    batch: Positive = Field(1024)
    learning_rate: float = Field(5e-4, gt=0.0)
    decay: float = Field(0.85, gt=0.0, le=1.0, description="of the learning rate after an epoch")
    embedding_l2: float = Field(3e-3, ge=0.0)
    together: Positive = Field(
        1, description="requests that are scored as one batch at most: for a GPU, as 32"
    )
    wait_ms: float = Field(1.0, gt=0.0, description="how long the first of them waits for the next")
    vectors: bool = Field(False, description="the items' text vectors are inputs too")
    warm: bool = Field(
        False, description="begin with what the published generation's model has learned"
    )
    workers: Positive = Field(
        1, description="processes that train together (Spark's TorchDistributor)"
    )
    history: Positive = Field(50, description="newest positive actions that are looked at")
    seed: int = Field(
        0, ge=0, description="added to build.seed for the network alone: the same samples again"
    )


class Serve(Section):
    """Where the services listen. Port 0 takes a free one."""

    gateway: str = Field("127.0.0.1:7070")
    features: str = Field("127.0.0.1:7071")
    recall: str = Field("127.0.0.1:7072")
    prerank: str = Field("127.0.0.1:7073")
    rank: str = Field("127.0.0.1:7074")
    rerank: str = Field("127.0.0.1:7075")
    workers: Positive = Field(8, description="threads of a service")
    drain_s: float = Field(5.0, ge=0.0, description="time for open requests at SIGTERM")
    budgets: float = Field(
        1.0, gt=0.0, description="factor on every time budget, for slower machines"
    )


class Log(Section):
    """The request log."""

    dir: str = Field("var/log", description="directory; empty turns the log off")
    rows: Positive = Field(2000, description="requests in a file")
    seconds: float = Field(5.0, gt=0.0, description="longest time before a file is written")


class Config(Section):
    data: Data = Field(default_factory=Data)
    build: Build = Field(default_factory=Build)
    features: Features = Field(default_factory=Features)
    store: Store = Field(default_factory=Store)
    scenes: dict[str, Scene] = Field(default_factory=_scenes)
    lexical: Lexical = Field(default_factory=Lexical)
    suggest: Suggest = Field(default_factory=Suggest)
    vectors: Vectors = Field(default_factory=Vectors)
    two_tower: TwoTower = Field(default_factory=TwoTower)
    behaviour: Behaviour = Field(default_factory=Behaviour)
    popular: Popular = Field(default_factory=Popular)
    new: New = Field(default_factory=New)
    prerank: Prerank = Field(default_factory=Prerank)
    rank: Rank = Field(default_factory=Rank)
    serve: Serve = Field(default_factory=Serve)
    log: Log = Field(default_factory=Log)

    @model_validator(mode="after")
    def _agree(self) -> Config:
        known = self.all_actions
        for where, names in [
            ("data.positive", self.data.positive),
            *((f"scenes.{name}.exclude", scene.exclude) for name, scene in self.scenes.items()),
        ]:
            for name in names:
                if name not in known:
                    raise ValueError(f"{where}: unknown action '{name}'; known: {', '.join(known)}")
        for name, scene in self.scenes.items():
            for channel in scene.recall.channels:
                if channel not in CHANNELS:
                    raise ValueError(
                        f"scenes.{name}.recall.channels: unknown channel '{channel}'; "
                        f"known: {', '.join(CHANNELS)}"
                    )
            if not any(channel.limit for channel in scene.recall.channels.values()):
                raise ValueError(f"scenes.{name}.recall.channels: no channel has a limit above 0")
            try:
                _ = scene.rank.value and Formula.parse(scene.rank.value)
            except ValueError as error:
                raise ValueError(f"scenes.{name}.rank.value: {error}") from error
        features, data = self.features, self.data
        if said := problem(features.extra, features, known, data.positive, data.categorical):
            raise ValueError(said)
        return self

    @property
    def all_actions(self) -> tuple[str, ...]:
        """Every action name; its place is its code in histories."""
        return (*ACTIONS, *(name for name in self.data.actions if name not in ACTIONS))

    def scene(self, name: str) -> Scene:
        if name not in self.scenes:
            raise BadConfig(f"unknown scene '{name}'; known: {', '.join(self.scenes)}")
        return self.scenes[name]


def load(path: str | Path | None = None, overrides: Mapping[str, Any] | None = None) -> Config:
    """The config in the file, over the defaults; `overrides` (nested, as in TOML) over both.

    Raises `BadConfig` naming the key, what was found and what is known.
    """
    table: dict[str, Any] = {}
    where = str(path) if path else "overrides"
    if path is not None:
        try:
            table = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise BadConfig(f"cannot read the config file {path}: {error.strerror}") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise BadConfig(f"{path} is not valid TOML: {error}") from error
    return parse(merged(table, overrides or {}), where)


def parse(table: Mapping[str, Any], where: str = "config") -> Config:
    """`table` over the defaults. Sections merge key by key; lists and scalars replace."""
    defaults = Config().model_dump(mode="python")
    table = {**table}
    # These say which columns or actions there are: naming some must not keep the default others.
    for key in ("positive", "text"):
        if key in table.get("data", {}):
            defaults["data"][key] = {}
    fresh = Scene().model_dump(mode="python")
    scenes = table.get("scenes", {})
    if isinstance(scenes, Mapping):
        for name in scenes:
            defaults["scenes"].setdefault(name, fresh)
    try:
        return Config.model_validate(merged(defaults, table))
    except ValidationError as error:
        raise BadConfig("\n".join(_said(where, problem) for problem in error.errors())) from error


def merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` laid on `under`, table by table."""
    both = dict(under)
    for key, value in over.items():
        if isinstance(value, Mapping) and isinstance(both.get(key), Mapping):
            both[key] = merged(both[key], value)
        else:
            both[key] = value
    return both


def _said(where: str, problem: Any) -> str:
    path = ".".join(str(part) for part in problem["loc"] if part != "[key]")
    if problem["type"] == "extra_forbidden":
        section = _section(problem["loc"][:-1])
        known = ", ".join(section.model_fields) if section else ""
        return f"{where}: unknown setting {path}; known: {known}"
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "value_error":
        return f"{where}: {message}"
    return f"{where}: {path} = {problem['input']!r}: {message}"


def _section(loc: tuple[int | str, ...]) -> type[Section] | None:
    kind: Any = Config
    for part in loc:
        if isinstance(kind, type) and issubclass(kind, Section):
            kind = kind.model_fields[str(part)].annotation if part in kind.model_fields else None
        elif get_origin(kind) in (dict, tuple):
            kind = get_args(kind)[get_origin(kind) is dict]
        if get_origin(kind) in (Union, UnionType):
            kind = get_args(kind)[0]
    return kind if isinstance(kind, type) and issubclass(kind, Section) else None


def settings(config: Config | None = None) -> Iterator[tuple[str, Any, str]]:
    """Every key with its value and meaning, in file order; what `funnel config` prints."""
    yield from _settings(config or Config(), "")


def _settings(section: Section, where: str) -> Iterator[tuple[str, Any, str]]:
    for name, info in type(section).model_fields.items():
        value = getattr(section, name)
        yield from _setting(value, f"{where}{name}", info.description or "")


def _setting(value: Any, where: str, meaning: str) -> Iterator[tuple[str, Any, str]]:
    if isinstance(value, Section):
        yield from _settings(value, f"{where}.")
    elif isinstance(value, dict) and any(isinstance(v, Section) for v in value.values()):
        for name, inner in value.items():
            yield from _setting(inner, f"{where}.{name}", meaning)
    else:
        yield where, value, meaning
