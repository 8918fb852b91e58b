"""Shipped search spaces: TOML files that people copy and edit."""
