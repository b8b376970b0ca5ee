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
# Function words and what sentences ask with, without what shops mean: sizes (`s`, `m`), `over-ear`,
# `under`, `off`.
ENGLISH = """
    a about after afterwards again against all almost along already also although always am
    among amongst an and another any anyhow anyone anything anyway anywhere are as at be
    became because become becomes becoming been before beforehand being below beside besides
    between beyond both but by can cannot consequently could describe described describing did
    do does doing during each eg either else elsewhere enough etc every everyone everywhere
    except few find for found from further furthermore give given gives giving had has have
    having he hence her here hers herself him himself his how however ie if in indeed into is
    it its itself just likewise made make makes many may maybe me meanwhile might more
    moreover most mostly much must my myself namely neither nevertheless no none nonetheless
    nor not nothing now of often on once only onto or other others otherwise ought our ours
    ourselves own per perhaps please really regarding respectively same seemed seems several
    shall she should shown since so some somehow someone something sometimes somewhere such
    than that the their theirs them themselves then there thereby therefore thereof these they
    this those though through throughout thus to together too toward towards unless until upon
    us use used uses using usually various very via was we were what whatever when whenever
    where whereas whereby wherein wherever whether which whichever while who whom whose why
    will with within without would yet you your yours yourself yourselves
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
