"""
Requests that are scored together: a GPU takes as long for one request's candidates as for those of
many, so what comes within a moment goes through the network as one batch. Scores are those of one
by one: a candidate's does not depend on the others of its batch.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future

import numpy as np

from funnel.types import Floats
from rank.batch import Encoded, Histories

Forward = Callable[[Encoded], Floats]


class Together:
    """Calls `forward` with up to `most` requests; the first of them waits `wait_ms` for others.

    One thread does it, for as long as the process lives. An error of a batch is that of each of its
    requests.
    """

    def __init__(self, forward: Forward, most: int, wait_ms: float):
        self.forward, self.most, self.wait_s = forward, most, wait_ms / 1e3
        self.batches: list[int] = []  # sizes of the last ones
        self._waiting: queue.Queue[tuple[Encoded, Future[Floats]]] = queue.Queue()
        threading.Thread(target=self._work, name="rank together", daemon=True).start()

    def __call__(self, encoded: Encoded) -> Floats:
        answer: Future[Floats] = Future()
        self._waiting.put((encoded, answer))
        return answer.result()

    def _work(self) -> None:
        while True:
            taken = [self._waiting.get()]
            try:
                while len(taken) < self.most:
                    taken.append(self._waiting.get(timeout=self.wait_s))
            except queue.Empty:
                pass
            self.batches = [*self.batches[-99:], len(taken)]
            try:
                found = self.forward(joined([encoded for encoded, _ in taken]))
                ends = np.cumsum([len(encoded.owner) for encoded, _ in taken])
                parts = np.split(found, ends[:-1])
            except Exception as error:  # theirs to hear, and the next batch's to go on
                for _, answer in taken:
                    answer.set_exception(error)
                continue
            for (_, answer), part in zip(taken, parts, strict=True):
                answer.set_result(part)


def joined(parts: Sequence[Encoded]) -> Encoded:
    """The requests of all parts, one after another."""
    if len(parts) == 1:
        return parts[0]
    pasts = [part.history for part in parts]
    requests = np.cumsum([0, *(len(past) for past in pasts)])
    vectors = [part.vectors for part in parts if part.vectors is not None]
    return Encoded(
        np.concatenate([part.ids for part in parts]),
        np.concatenate([part.numbers for part in parts]),
        np.concatenate([part.bags for part in parts]),
        Histories.joined(pasts),
        np.concatenate([p.owner + at for p, at in zip(parts, requests, strict=False)]),
        np.concatenate(vectors) if vectors else None,
    )
