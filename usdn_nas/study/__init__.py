"""The search, through Optuna: parameters, objectives, samplers, storage, resuming, and what a study has found.

The storage is the only truth: whatever is asked of a study (`points`, `tables`) is derived from its trials.
"""
