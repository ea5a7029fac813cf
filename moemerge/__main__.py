"""`python -m moemerge` is `moemerge`."""

from moemerge.cli import main

main()
