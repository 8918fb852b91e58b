"""The search space: the choices of bits and exits, and their costs. No module in here imports torch."""
