"""Results -> tables, charts, pages and files. Measures nothing."""
