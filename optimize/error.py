"""The error of the compile stage; a file that imports nothing, for devices use it too."""


class BuildError(ValueError):
    """A build that cannot go on; the message says which part and what to do."""
