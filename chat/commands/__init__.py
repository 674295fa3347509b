"""The command line of this room: flags to a session over a terminal or a pipe. Knows no request."""
