"""The search, which runs as an Optuna study: parameters, objectives, samplers, storage, resuming, and results.

All results (`points`, `tables`) are derived from the trials in the storage. Nothing else holds them.
"""
