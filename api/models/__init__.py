"""Which models one server holds: their states, what each needs, who makes room for whom. Knows no engine, no HTTP."""
