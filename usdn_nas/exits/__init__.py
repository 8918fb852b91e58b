"""Exit policies from cached outputs: exact scoring, thresholds, exit rates, calibration. No torch in here."""
