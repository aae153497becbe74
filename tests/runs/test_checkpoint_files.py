"""What cannot be saved is told in one line, in the words of the system."""

import pytest

from bert_jax.runs import checkpoint_files

SPEC = """ [tensorstore_spec='{"context":{"file_io":{}},"driver":"ocdbt","assume_metadata":true}']"""


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Error writing: Failed to write 5 bytes to file 3: No space left [os_error_code='28']", "No space left"),
        (f"Error writing: Failed to write: No space left{SPEC} [os_error_code='28']", "No space left"),
        (f"Error writing{SPEC}: Failed: Read-only file system [os_error_code='30']{SPEC}", "Read-only file system"),
        (f"DATA_LOSS: a chunk is not there{SPEC}", "DATA_LOSS: a chunk is not there"),
        ("a line\nanother", "a line"),
    ],
)  # fmt: skip
def test_reasons(text, reason):
    assert checkpoint_files.reason_of(ValueError(text)) == reason
    assert checkpoint_files.reason_of(OSError(28, reason)) == reason
