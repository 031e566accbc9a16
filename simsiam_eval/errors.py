"""The errors a user can cause: one sentence each (what, where, what to do), never a traceback."""


class UserError(Exception):
    """A mistake in what the user gave: the message is one sentence for the user, `exit_status` the process's."""

    exit_status = 1


class DataError(UserError):
    """A file or its content is not what the work needs (missing, corrupt, the wrong shape): exit status 1."""


class BeingWritten(DataError):
    """Another process is writing the file, or has just written it."""


class UsageError(UserError):
    """A setting is impossible, or two contradict each other: exit status 2."""

    exit_status = 2


class Stopped(UserError):
    """The user asked the work to stop, and it did, resumable: exit status 130 (Ctrl-C), 129 (SIGHUP) or 143."""

    def __init__(self, message: str, exit_status: int) -> None:
        super().__init__(message)
        self.exit_status = exit_status
