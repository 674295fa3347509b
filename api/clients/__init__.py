"""What each client may use, and what it has used. Knows no HTTP, no key and no clock but the one that it is given."""
