"""The one error type of this package: what a user can fix."""


class UserError(Exception):
    """Something the user can mend. Its text says what was wanted, what came and what to type; shown without
    traceback."""


class SweepRefused(BaseException):
    """What a sweep cannot run with, found by its callback.

    No Exception: Hydra prints those of a callback as a warning and goes on.
    """


class NotFinite(UserError):
    """A loss or a gradient became infinite or NaN. It is summed over the processes that train together, so all of them
    raise this at the same step."""
