"""Publishes a built folder on the hub: its files, a card that tells what was measured, and nothing of this machine."""

from moemerge.push.parcel import Parcel, prepare
from moemerge.push.run import Pushed, push_folder

__all__ = ["Parcel", "Pushed", "prepare", "push_folder"]
