"""Settings of all tests."""

import torch
from hypothesis import settings

# The same examples in every run, and no deadline: the machine may be busy.
settings.register_profile("usdn", derandomize=True, deadline=None)
settings.load_profile("usdn")

torch.set_num_threads(1)
