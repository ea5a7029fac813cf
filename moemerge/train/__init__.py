"""Trains the router of a built mixture: the gates alone, into a new folder, kept only where they are better."""
