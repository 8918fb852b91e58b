"""Exit policies, evaluated on cached outputs: exact scoring, thresholds, exit rates, calibration.

A policy is a set of placed exits with their thresholds. No module in here imports torch.
"""
