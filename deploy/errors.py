"""The one error of this room: something that the person at the keyboard can act on."""


class DeployError(Exception):
    """What went wrong and what to do about it, as one line; the command line prints it and exits with 1."""
