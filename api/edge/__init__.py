"""What wraps the whole application, unknown paths too: request ids, keys, access lines, CORS. Knows no route."""
