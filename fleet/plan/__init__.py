"""Settings and packages -> what a fleet consists of. Knows no ray and starts nothing."""
