"""A built mixture as an object: what evaluation and training both stand on."""
