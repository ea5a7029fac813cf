"""Shows what was measured: in the terminal and as pages."""
