"""The generations that a process answers for: the published one and the one before."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

from funnel.errors import BadConfig, FunnelError, Unavailable
from funnel.generation import current
from funnel.stage import Stage

log = logging.getLogger(__name__)

KEPT = 2

Tell = Callable[[str, bool], None]  # generation, whether it is loaded


class Host:
    """The stages of the generations that this process answers for, scene by scene.

    `load` makes the stages of a generation, ready to answer. After `start` a thread follows CURRENT
    and loads what is published beside what is there; the last two stay.
    """

    def __init__(self, root: Path, load: Callable[[str], Mapping[str, Stage]], poll_s: float = 1.0):
        self.root = root
        self.load = load
        self.poll_s = poll_s
        self._loaded: dict[str, Mapping[str, Stage]] = {}  # replaced whole; newest last
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def loaded(self) -> tuple[str, ...]:
        """Generation ids, the published one last."""
        return tuple(self._loaded)

    def start(self, tell: Tell = lambda generation, there: None) -> None:
        """Loads the published generation, then follows. Raises what the loading raises."""
        self._take(current(self.root), tell)
        self._thread = threading.Thread(target=self._follow, args=(tell,), name="host", daemon=True)
        self._thread.start()

    def stage(self, generation: str, scene: str) -> Stage:
        """The scene's stage in a generation, in the published one where none is named."""
        loaded = self._loaded
        if not loaded:
            raise Unavailable("no generation is loaded yet; ask again in a moment")
        scenes = loaded.get(generation or next(reversed(loaded)))
        if scenes is None:
            raise Unavailable(
                f"generation {generation} is not loaded here; loaded: {', '.join(loaded)}"
            )
        if scene not in scenes:
            raise BadConfig(
                f"scene '{scene}' is not served here (only {', '.join(scenes)}): "
                "give every service the same config"
            )
        return scenes[scene]

    def close(self) -> None:
        self._closed.set()
        if self._thread is not None:
            self._thread.join()

    def _follow(self, tell: Tell) -> None:
        failed = ""
        while not self._closed.wait(self.poll_s):
            try:
                published = current(self.root)
                if published not in (self.loaded[-1], failed):
                    failed = published
                    self._take(published, tell)
                    failed = ""
            except FunnelError as error:
                log.error("stays with generation %s: %s", self.loaded[-1], error)
            except Exception:  # whatever a broken file does to a loader, the old one goes on
                log.exception("stays with generation %s", self.loaded[-1])

    def _take(self, generation: str, tell: Tell) -> None:
        before = self._loaded
        scenes = before[generation] if generation in before else self.load(generation)
        others = [(id, stages) for id, stages in before.items() if id != generation]
        kept = dict([*others, (generation, scenes)][-KEPT:])
        self._loaded = kept
        for id in before.keys() - kept.keys():
            tell(id, False)
        tell(generation, True)
        log.info("answers for %s", ", ".join(kept))
