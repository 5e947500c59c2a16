"""The one error type of this package: what a user can fix."""


class UserError(Exception):
    """Something the user can mend. Its text says what was wanted, what came and what to type; shown without
    traceback."""
