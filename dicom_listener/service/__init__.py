"""The running listener: what keeps, what receives, and how many processes share the work."""
