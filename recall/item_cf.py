"""
Items that people wanted together with what this user wanted: item-item collaborative filtering.

The neighbours are made by `jobs.item_cf`; here they are read and added up over the user's history.
"""

from __future__ import annotations

from funnel.config import Config
from funnel.generation import Generation
from recall.neighbours import HALF_LIFE, Neighbours, action_weights, interest


class ItemCF(Neighbours):
    """Co-occurrence, damped by popularity."""

    @staticmethod
    def open(generation: Generation, config: Config) -> Neighbours | None:
        """None where the generation was built without behaviour."""
        return ItemCF.load(generation, config, "item_cf")


__all__ = ["HALF_LIFE", "ItemCF", "action_weights", "interest"]
