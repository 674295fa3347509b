"""Work that may crash, hang or eat memory -> a process that has given up what it does not need, killed at a deadline.

A job is bytes and so is its answer. Knows no kind of work.
"""
