"""Plan and gate → a folder that appears complete or not at all."""

from moemerge.write.folder import needed_bytes, write_folder
from moemerge.write.record import make_record, read_record
from moemerge.write.staging import check_output, remove_orphan, staged

__all__ = [
    "check_output",
    "make_record",
    "needed_bytes",
    "read_record",
    "remove_orphan",
    "staged",
    "write_folder",
]
