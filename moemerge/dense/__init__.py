"""A plan's dense models, alive: whole, or a layer at a time."""
