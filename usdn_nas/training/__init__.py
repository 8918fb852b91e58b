"""Training: the loop, the losses, and ready-made training functions."""
