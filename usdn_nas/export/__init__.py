"""The results of a search: ``architecture.json``, the standalone network, and the runtime that takes early exits."""
