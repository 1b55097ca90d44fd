"""Verbs for the test of Jobs: a process of its own imports them by name."""

import os

from headstart.core.errors import DivergenceError


def square(order):
    """Squares, fails or dies, as the order says."""
    print("what a job prints is no result")
    if order["n"] == 2:
        raise DivergenceError("n", "is 2.", "Take another.")
    if order["n"] == 3:
        os.abort()
    return {"square": order["n"] ** 2}
