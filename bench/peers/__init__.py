"""Other people's runtimes, built or installed here, to be measured beside ours in one run."""
