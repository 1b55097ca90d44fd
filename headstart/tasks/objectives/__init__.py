"""What a backbone is asked of texts without labels while it reads on: nobody names these as tasks of a run."""

from .causal import CausalLanguage
from .masked import MaskedLanguage
from .objective import Objective

__all__ = ["CausalLanguage", "MaskedLanguage", "Objective"]
