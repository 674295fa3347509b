"""Token events -> text, and text -> the bytes of a plain answer or a stream. Knows no route, validates no field."""
