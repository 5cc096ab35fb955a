"""Loss, one epoch of training, and prediction."""
