"""What leaves the search: ``architecture.json``, the standalone network, the early-exit runtime."""
