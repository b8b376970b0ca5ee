"""
Texts as words, the same way for what is indexed and for what is asked.

Width, case and accents are folded. English and its like are stemmed, their stop words left out.
Chinese has no spaces: a run of Han characters, whatever the language of the data set, gives the
words that jieba cuts it into and all pairs of neighbouring characters, which find what was cut
otherwise. Traditional characters are folded to simplified ones.
"""

from __future__ import annotations

import logging
import re
import unicodedata
import warnings
from collections.abc import Callable, Mapping
from functools import cache

import pyarrow as pa
import tantivy

from funnel.errors import BadConfig, BadData
from recall.simplified import FOLD

LANGUAGES = {
    "en": "english",
    "da": "danish",
    "de": "german",
    "es": "spanish",
    "fi": "finnish",
    "fr": "french",
    "hu": "hungarian",
    "it": "italian",
    "nl": "dutch",
    "no": "norwegian",
    "pt": "portuguese",
    "ru": "russian",
    "sv": "swedish",
}
# Of Snowball's list, without what shops mean: sizes (`s`, `m`), `over-ear`, `under`, `off`.
ENGLISH = """
    a about again against all am an and any are as at be because been being between both but by
    can could did do does doing during each few for from further had has have having he her here
    hers herself him himself his how if in into is it its itself just me more most my myself no
    nor not of on once only or other ought our ours ourselves own same she should so some such
    than that the their theirs them themselves then there these they this those through to too
    until very was we were what when where which while who whom why will with would you your
    yours yourself yourselves
"""
PLAIN = ("none", "zh")  # nothing is stemmed
LONG = 64  # bytes; what is longer is no word
MAX_BOOST = 10  # of a column against the one with the smallest boost
_HAN = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]+")

Analyzer = Callable[[str], list[str]]


def analyzer(language: str) -> Analyzer:
    """The words of a text, in order. Raises `BadConfig` for a language that is not known."""
    if language not in LANGUAGES and language not in PLAIN:
        known = ", ".join((*PLAIN, *LANGUAGES))
        raise BadConfig(f"data.language = '{language}' is not supported; known: {known}")
    builder = tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.simple())
    for step in (
        tantivy.Filter.remove_long(LONG),
        tantivy.Filter.lowercase(),
        tantivy.Filter.ascii_fold(),
    ):
        builder = builder.filter(step)
    if language in LANGUAGES:
        without = (
            tantivy.Filter.custom_stopword(ENGLISH.split())
            if language == "en"
            else tantivy.Filter.stopword(LANGUAGES[language])
        )
        builder = builder.filter(without)
        builder = builder.filter(tantivy.Filter.stemmer(LANGUAGES[language]))
    words = builder.build().analyze

    def analyze(text: str) -> list[str]:
        found: list[str] = words(text if text.isascii() else spaced(text))
        return found

    return analyze


def folded(text: str) -> str:
    """Without regard to width, case and the two ways of writing Chinese; accents stay."""
    if text.isascii():
        return text.casefold()
    return unicodedata.normalize("NFKC", text).casefold().translate(FOLD)


def spaced(text: str) -> str:
    """With spaces between the words, and the pairs of characters, of what is Chinese."""
    text = unicodedata.normalize("NFKC", text)
    if not _HAN.search(text):
        return text
    return _HAN.sub(lambda run: " " + " ".join(han(run[0].translate(FOLD))) + " ", text)


def han(run: str) -> list[str]:
    """Words of two characters or more, and all pairs; a character that stands alone."""
    if len(run) == 1:
        return [run]
    pairs = [run[place : place + 2] for place in range(len(run) - 1)]
    return pairs + [word for word in _cutter()(run) if len(word) > 2]


@cache
def _cutter() -> Callable[[str], list[str]]:
    with warnings.catch_warnings():  # about escapes in its regular expressions
        warnings.simplefilter("ignore")
        import jieba  # here, because its dictionary takes a second that Latin texts need not pay

    jieba.setLogLevel(logging.WARNING)
    jieba.initialize()
    cut: Callable[[str], list[str]] = jieba.lcut_for_search
    return cut


def repeats(boosts: Mapping[str, float], there: list[str]) -> dict[str, int]:
    """How many times the words of each column count: boosts over the smallest, as whole numbers."""
    used = {name: boost for name, boost in boosts.items() if boost > 0 and name in there}
    if not used:
        raise BadData(
            f"none of the columns of data.text ({', '.join(boosts)}) is in the items with a boost "
            f"above 0; there are: {', '.join(there)}"
        )
    least = min(used.values())
    return {name: min(round(boost / least), MAX_BOOST) for name, boost in used.items()}


def texts(column: pa.Array) -> list[str]:
    """A column as texts: lists are joined, missing is empty."""
    values = column.to_pylist()
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        return [" ".join(str(part) for part in value if part) if value else "" for value in values]
    return ["" if value is None else str(value) for value in values]
