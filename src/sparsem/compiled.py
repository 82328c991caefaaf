"""Loops over voxels that are compiled: the compiled code is kept on disk where that is possible."""

from collections.abc import Callable
from typing import Any

from numba import njit


def compiled(fastmath: bool = False) -> Callable[[Callable[..., Any]], Any]:
    """Return a decorator that compiles a function of arrays and numbers when it is first called.

    It runs without Python's lock.

    A read-only installation of a user without a writable home has no place for compiled code: there
    each process compiles anew, which takes seconds. ``NUMBA_CACHE_DIR`` names a place.
    """
    options: dict[str, Any] = {"nogil": True, "fastmath": fastmath}

    def compile_later(function: Callable[..., Any]) -> Any:
        try:
            return njit(function, cache=True, **options)
        except RuntimeError as error:
            if "cannot cache" not in str(error):
                raise
            return njit(function, **options)

    return compile_later
