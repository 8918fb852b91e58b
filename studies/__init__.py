"""Shipped studies: TOML files that people copy and edit."""
