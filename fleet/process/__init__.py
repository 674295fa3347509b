"""``powertrain serve --replicas``: a fleet in one terminal, from its start to the signal that ends it."""
