"""A session or an engine -> its speed without HTTP. Knows no endpoint."""
