"""Networks as chains of segments with exits: builders, heads (internal classifiers), layer records."""
