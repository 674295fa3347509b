"""What operators see: request records, metrics, traces, log lines. Knows no route and changes no answer."""
