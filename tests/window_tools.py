"""Helpers of the tests of the window: a display, a window, and events of mouse and keys.

python -m tests.window_tools SAMPLE     paints strokes until it is killed, and prints them
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

DISPLAYS = range(90, 120)


@contextmanager
def display() -> Iterator[bool]:
    """Provide a display on which OpenGL works; False where there is none."""
    if os.environ.get("DISPLAY"):
        yield True
        return
    if not shutil.which("Xvfb"):
        yield False
        return
    for number in DISPLAYS:
        if Path(f"/tmp/.X11-unix/X{number}").exists():
            continue
        server = subprocess.Popen(
            ["Xvfb", f":{number}", "-screen", "0", "1600x1000x24"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        limit = time.monotonic() + 10
        while not Path(f"/tmp/.X11-unix/X{number}").exists() and time.monotonic() < limit:
            time.sleep(0.05)
        os.environ["DISPLAY"] = f":{number}"
        os.environ["QT_QPA_PLATFORM"] = "xcb"
        try:
            yield True
        finally:
            del os.environ["DISPLAY"]
            server.terminate()
            server.wait()
        return
    yield False


def spin(seconds: float) -> None:
    """Let the window work for a while.

    ``QApplication.processEvents`` of PySide6 takes a reference to None away at every call, which
    ends the process after many.
    """
    from qtpy.QtCore import QEventLoop, QTimer

    loop = QEventLoop()
    QTimer.singleShot(int(1000 * seconds), loop.quit)
    loop.exec()


def wait_for(condition: Callable[[], object], seconds: float = 60) -> None:
    """Let the window work until a condition holds."""
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, f"not in {seconds} s"
        spin(0.05)


def open_sample(path: Path) -> tuple[Any, Any]:
    """Return a window of a sample, and its dock."""
    from sparsem.store.sample import Sample
    from sparsem.viewer.window import make_window

    viewer = make_window(Sample.open(path))
    viewer.window._qt_window.resize(1600, 1000)
    spin(0.5)
    dock = next(iter(viewer.window.dock_widgets.values()))
    return viewer, dock


def close(viewer: Any, dock: Any) -> None:
    """Close a window as a person does."""
    dock.close_all()
    viewer.close()
    spin(0.2)


def drag(
    viewer: Any, start: tuple[float, float], stop: tuple[float, float], steps: int = 8
) -> None:
    """Press, drag and release the left button; positions are fractions (y, x) of the canvas."""
    from qtpy.QtCore import QPoint, Qt
    from qtpy.QtTest import QTest

    native = viewer.window._qt_viewer.canvas.native
    size = native.size()

    def point(fraction: float) -> QPoint:
        y = start[0] + fraction * (stop[0] - start[0])
        x = start[1] + fraction * (stop[1] - start[1])
        return QPoint(int(x * size.width()), int(y * size.height()))

    left, none = Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier
    QTest.mouseMove(native, point(0))
    spin(0.05)
    QTest.mousePress(native, left, none, point(0))
    for step in range(1, steps + 1):
        QTest.mouseMove(native, point(step / steps))
        spin(0.02)
    QTest.mouseRelease(native, left, none, point(1))
    spin(0.05)


def hover(viewer: Any, steps: int) -> None:
    """Move the pointer over the canvas."""
    from qtpy.QtCore import QPoint
    from qtpy.QtTest import QTest

    native = viewer.window._qt_viewer.canvas.native
    for step in range(steps):
        QTest.mouseMove(native, QPoint(100 + step % 50, 100 + step % 3))
    spin(0.05)


def double_click(viewer: Any) -> None:
    """Click twice on the middle of the canvas."""
    from qtpy.QtCore import QPoint, Qt
    from qtpy.QtTest import QTest

    native = viewer.window._qt_viewer.canvas.native
    middle = QPoint(native.size().width() // 2, native.size().height() // 2)
    left, none = Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier
    QTest.mouseMove(native, middle)
    spin(0.05)
    QTest.mouseClick(native, left, none, middle)
    QTest.mouseDClick(native, left, none, middle)
    QTest.mouseRelease(native, left, none, middle)
    spin(0.2)


def press_key(viewer: Any, key: str, control: bool = False) -> None:
    """Press a key while the canvas has the focus."""
    from qtpy.QtCore import Qt
    from qtpy.QtTest import QTest

    native = viewer.window._qt_viewer.canvas.native
    native.setFocus()
    spin(0.05)
    modifier = Qt.KeyboardModifier.ControlModifier if control else Qt.KeyboardModifier.NoModifier
    QTest.keyClick(native, key, modifier)
    spin(0.05)


def paint_until_killed(path: Path) -> None:
    """Paint one stroke after another in slices 1, 2, ... and print those that are on disk."""
    _, dock = opened = open_sample(path)
    viewer = opened[0]
    dock.label_page.name.setCurrentText("lysosome")
    for z in range(1, 18):
        dock.canvas.go_to(z)
        dock.label_page.paint()
        drag(viewer, (0.4, 0.4), (0.6, 0.6))
        painted = dock.label_page.painted()
        wait_for(lambda: not painted.unsaved)  # noqa: B023
        sys.stdout.write(f"{z}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    paint_until_killed(Path(sys.argv[1]))
