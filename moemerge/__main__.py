"""`python -m moemerge` is `moemerge`."""

from moemerge.signals import main

main()
