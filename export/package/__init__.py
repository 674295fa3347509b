"""A recipe -> a package folder, whole or not at all. Puts the other folders' work in order; computes nothing itself."""
