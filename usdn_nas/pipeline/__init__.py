"""Runs the stages of a run folder, records which stages are done, and repeats those whose inputs have changed."""
