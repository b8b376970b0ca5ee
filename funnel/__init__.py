"""Funnel: recall, prerank, rank and rerank, joined into one served and trained pipeline."""

__version__ = "0.1.0"
