"""Plan and gate → a folder that appears complete or not at all."""

from moemerge.write.folder import needed_bytes, write_folder
from moemerge.write.staging import check_output, remove_orphan, staged

__all__ = [
    "check_output",
    "needed_bytes",
    "remove_orphan",
    "staged",
    "write_folder",
]
