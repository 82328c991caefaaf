"""Loops over voxels that are compiled: the compiled code is kept on disk where that is possible.

Numba is imported when the first of them is called, not when they are defined: it takes as long to
import as many commands need.
"""

from collections.abc import Callable
from threading import RLock
from typing import Any, Literal

_LOCK = RLock()


class CompiledFunction:
    """A function of arrays and numbers that is compiled when it is first called.

    Functions that it calls are compiled with it.
    """

    def __init__(self, function: Callable[..., Any], **options: Any) -> None:
        self.__doc__ = function.__doc__
        self.__name__ = function.__name__
        self.__wrapped__ = function
        self._options = options
        self._dispatcher: Callable[..., Any] | None = None

    def __call__(self, *arguments: Any) -> Any:
        """Call the compiled function."""
        dispatcher = self._dispatcher or self.compiled()
        return dispatcher(*arguments)

    def compiled(self) -> Callable[..., Any]:
        """Return the function as Numba compiles it, for the types of its arguments."""
        with _LOCK:
            if self._dispatcher is None:
                function = self.__wrapped__
                names = function.__globals__
                for name in function.__code__.co_names:
                    called = names.get(name)
                    if isinstance(called, CompiledFunction):
                        names[name] = called.compiled()  # Numba compiles calls of its own functions
                self._dispatcher = _njit(function, self._options)
            return self._dispatcher


def compiled(
    fastmath: bool = False, inline: Literal["never", "always"] = "never"
) -> Callable[[Callable[..., Any]], Any]:
    """Return a decorator that compiles a function of arrays and numbers when it is first called.

    It runs without Python's lock.

    Args:
        fastmath: sums may be computed in another order.
        inline: ``always`` to insert the function as source where another one calls it.
    """
    return lambda function: CompiledFunction(function, fastmath=fastmath, inline=inline)


def _njit(function: Callable[..., Any], options: dict[str, Any]) -> Callable[..., Any]:
    """Return a function of Numba.

    A read-only installation of a user without a writable home has no place for compiled code: there
    each process compiles anew, which takes seconds. ``NUMBA_CACHE_DIR`` names a place.
    """
    from numba import njit

    try:
        dispatcher: Callable[..., Any] = njit(function, cache=True, nogil=True, **options)
    except RuntimeError as error:
        if "cannot cache" not in str(error):
            raise
        dispatcher = njit(function, nogil=True, **options)
    return dispatcher
