"""Modules that every other package uses: files, errors, validation, progress, provenance, seeds."""
