"""A client that never stops asking."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def traffic(get: Callable[[], str]) -> Iterator[list[str]]:
    """Asks all the time; the answers that were not as the first one."""
    wrong: list[str] = []
    done = threading.Event()
    expected = get()

    def ask() -> None:
        while not done.is_set():
            answer = get()
            if answer != expected:
                wrong.append(answer or "no answer")
            time.sleep(0.02)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield wrong
    finally:
        done.set()
        thread.join()
