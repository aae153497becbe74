"""The one error class for mistakes a user can make."""


class UserError(Exception):
    """A mistake in a config, a file, a vocabulary, a checkpoint or a mesh.

    The message is one line that names the file or key, what was found, what was expected, and what to do.
    The commands print it after "error: " and exit with code 2; in Python it is an ordinary exception.
    """
