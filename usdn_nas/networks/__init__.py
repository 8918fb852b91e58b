"""Networks as chains of segments with exits: builders, IC heads, layer records."""
