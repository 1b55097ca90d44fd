"""Texts as vectors that lie near each other where the texts mean the same: search, FAQ retrieval, paraphrases."""

from .task import SentenceSimilarity

__all__ = ["SentenceSimilarity"]
