"""One run from Spec to artifact: fit, its folder, its evidence, and how an artifact is opened again."""
