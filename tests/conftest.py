"""Settings of all tests."""

from hypothesis import settings

# The same examples in every run, and no deadline: the machine may be busy.
settings.register_profile("usdn", derandomize=True, deadline=None)
settings.load_profile("usdn")
