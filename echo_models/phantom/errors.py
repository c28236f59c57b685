"""Errors of the phantom.

```
PhantomError                reject what was asked for; nothing was drawn
├── UnknownViewError        the name is none of the fifteen views
└── InvalidRequestError     a count, size or strength is out of its range
```
"""

__all__ = ["InvalidRequestError", "PhantomError", "UnknownViewError"]


class PhantomError(ValueError):
    """What was asked of the phantom cannot be drawn."""


class UnknownViewError(PhantomError):
    """The name is none of the fifteen views of `echo_models.views`."""


class InvalidRequestError(PhantomError):
    """A count, a size or a strength is out of its range."""
