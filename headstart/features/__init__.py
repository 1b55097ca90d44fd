"""What frozen layers compute, once: the activation store, the cached forward pass, heads solved on features."""
