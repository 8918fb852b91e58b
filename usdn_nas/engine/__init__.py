"""Runs bit configurations over images: compiled parts, back ends, shared prefixes, memory."""
