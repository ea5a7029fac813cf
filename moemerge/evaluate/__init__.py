"""Measures a built mixture: losses by domain against what matters, and its routing."""
