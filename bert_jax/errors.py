"""The one error class for mistakes a user can make, and how its messages quote a text."""


class UserError(Exception):
    """A mistake in a config, a file, a vocabulary, a checkpoint or a mesh.

    The message is one line that names the file or key, what was found, what was expected, and what to do.
    The commands print it after "error: " and exit with code 2; in Python it is an ordinary exception.
    """


def shortened(text: str, length: int = 60) -> str:
    """Returns the beginning of a text, at most `length` characters, for an error message."""
    return text if len(text) <= length else text[: length - 3] + "..."
