"""A package -> an engine that answers forwarded requests, without a socket. Knows no ray and no other replica."""
