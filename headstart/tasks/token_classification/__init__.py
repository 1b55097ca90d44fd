"""A tag for every word: named entities, chunks; parts of speech."""

from .task import TokenClassification

__all__ = ["TokenClassification"]
