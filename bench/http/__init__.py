"""A load and an endpoint -> one record per request. Knows sockets, clocks and workloads; computes no metric."""
