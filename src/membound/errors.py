"""What a user did wrong, and what went wrong while running: each one clear line, never a traceback."""


class MemboundError(Exception):
    """Base of the errors that the command line prints as one line."""

    exit_code = 1

    def __str__(self) -> str:
        """The message on one line: what a damaged file is quoted with may hold anything."""
        return "".join(
            c if c.isprintable() else c.encode("unicode_escape").decode() for c in super().__str__()
        )


class RunError(MemboundError):
    """Failed while running: a full disk, no network, no memory."""


class InputError(MemboundError, ValueError):
    """Usage or input that cannot be used; the message says what to do instead."""

    exit_code = 2
