"""A request's beginning -> the replica that should have it. Pure rules: no ray, no HTTP, no clock, no model."""
