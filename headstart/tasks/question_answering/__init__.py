"""The words of a text that answer a question, or that nothing in it does: SQuAD v1 and v2, CMRC."""

from .task import QuestionAnswering

__all__ = ["QuestionAnswering"]
