"""Checks a built folder, on its own: it shares no code with plan, merge and write."""

from moemerge.errors import Difference
from moemerge.verify.early import EarlyChecks
from moemerge.verify.folder import verify_folder
from moemerge.verify.result import Verification, verification_json

__all__ = ["Difference", "EarlyChecks", "Verification", "verification_json", "verify_folder"]
