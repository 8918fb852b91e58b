"""Training: the loop, the losses, and what is trained with them."""
