"""Moving weights: the loop, its batches, evaluation on the way, checkpoints, signals."""
