"""`moemerge.yaml`, the record in a built folder: what it holds, its one reader, and how it is written down."""
