"""Loss, one epoch of training, prediction, and evaluation."""
