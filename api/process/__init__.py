"""Settings -> a running server: the application put together, the socket, signals, ``powertrain serve``."""
