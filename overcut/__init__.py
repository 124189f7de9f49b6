"""Overcut: what the product knows, with no cloud in it.

Errors, for both pipelines:

    OvercutError
     ├─ RefusedError     this input can never be used: it is kept, with the reason, and counted
     ├─ RetryableError   nothing is wrong with the input: the same call may succeed later
     └─ (subclasses next to the code that raises them)
"""


class OvercutError(Exception):
    """The root of every error that Overcut raises on purpose."""


class RefusedError(OvercutError):
    """The input can never be used; its text says why, in words for the person who sent it."""


class RetryableError(OvercutError):
    """The call may succeed when it is made again; nothing was lost."""
