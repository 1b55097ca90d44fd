"""How one kind of input becomes arrays. No labels, no torch."""
