"""
From what a user typed to weighted terms: synonyms, typing errors, and words of the best hits (RM3).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from funnel.config import RM3, Lexical
from funnel.errors import BadConfig
from funnel.types import Array, Candidates
from recall.lexicon import Lexicon
from recall.scan import Asked
from recall.text import Analyzer
from recall.typos import Vocabulary

MAX_TERMS = 63  # distinct words of one query; the first ones count
MAX_WORDS = 500  # of one query that are read at all
GUESSES = 3  # words that a typing error may stand for
OTHER = MAX_TERMS  # the group of what RM3 adds

Synonyms = Mapping[tuple[str, ...], tuple[tuple[str, ...], ...]]


def read_synonyms(text: str, analyze: Analyzer, where: str) -> Synonyms:
    """Lines `tv, television` (each finds the others) and `tv => television, telly` (only so);
    `#` starts a comment. Raises `BadConfig` naming the line that says nothing."""
    found: dict[tuple[str, ...], list[tuple[str, ...]]] = {}
    for number, line in enumerate(text.splitlines(), 1):
        said = line.split("#", 1)[0].strip()
        if not said:
            continue
        left, arrow, right = said.partition("=>")
        froms = [tuple(analyze(part)) for part in left.split(",") if part.strip()]
        to = [tuple(analyze(part)) for part in right.split(",") if part.strip()] if arrow else froms
        if not all(froms) or not all(to) or not froms or len({*froms, *to}) < 2:
            raise BadConfig(
                f"{where}, line {number}: '{said}' names no two words that differ; "
                "write `tv, television` or `tv => television`"
            )
        for one in froms:
            known = found.setdefault(one, [])
            known += [other for other in to if other != one and other not in known]
    return {one: tuple(others) for one, others in found.items()}


@dataclass(frozen=True, slots=True)
class Wanted:
    """One term of a query."""

    term: int
    weight: float
    group: int  # the word of the query that it stands for


@dataclass(frozen=True, eq=False)
class Wording:
    """The words of one query as terms, most of them as they stand."""

    wanted: tuple[Wanted, ...]
    words: int  # of the query, that something has
    pairs: tuple[tuple[int, int], ...]  # terms that stand side by side
    share: float = 1.0  # that the words as they were typed have of the query

    def asked(self, lexicon: Lexicon) -> Asked:
        """Each term once, with its weight times what it is worth."""
        weights: dict[int, float] = {}
        groups: dict[int, int] = {}
        for one in self.wanted:
            weights[one.term] = weights.get(one.term, 0.0) + one.weight
            groups.setdefault(one.term, one.group)
        terms = np.fromiter(weights, np.int64, len(weights))
        worth = np.fromiter(weights.values(), np.float32, len(weights)) * lexicon.idf(terms)
        return Asked(terms, worth, np.fromiter(groups.values(), np.uint64, len(groups)))


def worded(
    text: str,
    analyze: Analyzer,
    lexicon: Lexicon,
    synonyms: Synonyms,
    vocabulary: Vocabulary,
    settings: Lexical,
) -> Wording:
    """The terms of a query. A word counts as often as it was typed."""
    words = analyze(text)[:MAX_WORDS]
    counts = Counter(words)
    distinct = list(counts)[:MAX_TERMS]
    terms = dict(zip(distinct, lexicon.terms(distinct), strict=True))
    wanted: list[Wanted] = []
    alike = _alike(words, synonyms) if synonyms else {}
    df = lexicon.counts(np.fromiter(terms.values(), np.int64, len(terms)))
    for group, (word, rows) in enumerate(zip(distinct, df, strict=True)):
        term, count = terms[word], counts[word]
        if term >= 0:
            wanted.append(Wanted(term, count, group))
        for other in alike.get(word, ()):
            wanted += [
                Wanted(t, count * settings.synonym_weight / len(other), group)
                for t in lexicon.terms(other)
                if t >= 0
            ]
        if rows <= settings.typo_rows and settings.typo_weight > 0 and word not in alike:
            wanted += [
                Wanted(t, count * settings.typo_weight**edits, group)
                for t, edits in guesses(word, int(rows), lexicon, vocabulary)
            ]
    pairs = dict.fromkeys(
        (terms[a], terms[b])
        for a, b in pairwise(words)
        if a != b and terms.get(a, -1) >= 0 and terms.get(b, -1) >= 0
    )
    return Wording(tuple(wanted), len({one.group for one in wanted}), tuple(pairs))


def _alike(words: Sequence[str], synonyms: Synonyms) -> dict[str, list[tuple[str, ...]]]:
    """What else is looked for, by the first word of what it stands for."""
    found: dict[str, list[tuple[str, ...]]] = {}
    longest = max(len(one) for one in synonyms)
    for start in range(len(words)):
        for length in range(1, longest + 1):
            for other in synonyms.get(tuple(words[start : start + length]), ()):
                if other not in found.setdefault(words[start], []):
                    found[words[start]].append(other)
    return found


def guesses(
    word: str, rows: int, lexicon: Lexicon, vocabulary: Vocabulary
) -> list[tuple[int, int]]:
    """Terms that more rows have than the word, with their distances: the nearest, of these the
    commonest."""
    places, edits = vocabulary.near(word)
    df = lexicon.counts(places)
    order = np.lexsort((places, -df, edits))
    order = order[df[order] > rows][:GUESSES]
    return [(int(places[n]), int(edits[n])) for n in order]


def fed_back(wording: Wording, found: Candidates, lexicon: Lexicon, settings: RM3) -> Wording:
    """The query and the words that the best hits are about.

        P(t | R) = Σ_d tf(t, d) / |d| · score(d),  weight = |Q|·(λ·P(t | Q) + (1 − λ)·P(t | R))

    RM3 (Abdul-Jaleel et al. 2004, "UMass at TREC 2004"), over the first `docs` hits, each
    document's and the sum's highest `terms` terms. Words that a tenth of all rows have say nothing.
    """
    top = found.top(settings.docs)
    scores = top.scores.astype(np.float64)
    if not len(top) or not wording.wanted or scores.sum() <= 0:
        return wording
    relevant: dict[int, float] = {}
    for terms, share in zip(lexicon.sequences(top.rows), scores / scores.sum(), strict=True):
        ids, tf = counted(terms)
        common = lexicon.counts(ids) > max(0.1 * lexicon.rows, 1)
        ids, tf = ids[~common], tf[~common]
        order = np.lexsort((ids, -tf))[: settings.terms]
        total = max(float(tf[order].sum()), 1.0)
        for n in order:
            relevant[int(ids[n])] = relevant.get(int(ids[n]), 0.0) + share * float(tf[n]) / total
    kept = sorted(relevant.items(), key=lambda one: (-one[1], one[0]))[: settings.terms]
    mass = sum(weight for _, weight in kept)
    own = sum(one.weight for one in wording.wanted)
    if mass <= 0:
        return wording
    share = settings.weight
    wanted = [Wanted(one.term, share * one.weight, one.group) for one in wording.wanted]
    wanted += [Wanted(term, (1 - share) * own * weight / mass, OTHER) for term, weight in kept]
    return Wording(tuple(wanted), wording.words, wording.pairs, share)


def counted(terms: Array) -> tuple[Array, Array]:
    """The distinct terms of a row and how often each counts, as the columns' marks say."""
    marks = terms < 0
    weights = np.ones(len(terms))
    if marks.any():
        places = np.flatnonzero(marks)
        weights = -terms[places][np.maximum(np.cumsum(marks) - 1, 0)].astype(np.float64)
    ids, place = np.unique(terms[~marks], return_inverse=True)
    return ids.astype(np.int64), np.bincount(place, weights[~marks], len(ids))
