"""A folder with a PEFT adapter ─▶ its low-rank matrices by layer and role ─▶ an adapter as a package's graph takes it.

Export merges the first into weights, the server binds the second. Knows no graph, no session and no HTTP.
"""
