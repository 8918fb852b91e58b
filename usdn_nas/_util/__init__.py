"""What every room uses: files, errors, validation, progress, provenance, seeds."""
