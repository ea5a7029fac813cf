"""From a plan to a folder: the gate, the write and the check, and what is decided or measured on the way."""
