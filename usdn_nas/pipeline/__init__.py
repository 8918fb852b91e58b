"""Stages of a run folder: what is done, what its inputs were, what to do again."""
