"""A session and texts -> how well a model answers and predicts. Knows no HTTP and no clock."""
