"""The exceptions that a caller may catch: `from headstart.errors import HeadstartError`."""

from .core.errors import *  # noqa: F403 - one tree, under its public name
