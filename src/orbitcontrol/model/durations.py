"""Durations as Go and Docker write them: ``500ms``, ``10s``, ``2m``, ``1h30m``."""

from __future__ import annotations

import re

_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART = re.compile(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h)")


class Duration(float):
    """A length of time in seconds that remembers nothing but its value."""

    @classmethod
    def parse(cls, value: str | float) -> Duration:
        """Reads ``"1m30s"``, or a plain number of milliseconds as older trees have it.

        Raises ValueError for anything else, including negative values.
        """
        if isinstance(value, bool):
            raise ValueError("expected a duration like '500ms' or '10s'")
        if isinstance(value, int | float):
            if value < 0:
                raise ValueError("a duration cannot be negative")
            return cls(value / 1000)
        parts = _PART.findall(value)
        if not parts or "".join(number + unit for number, unit in parts) != value:
            raise ValueError(f"{value!r} is not a duration; write it like '500ms', '10s' or '2m'")
        return cls(sum(float(number) * _UNITS[unit] for number, unit in parts))

    def __str__(self) -> str:
        if self < 1 and self:
            return f"{round(self * 1000)}ms"
        if self >= 60 and self % 60 == 0:
            return f"{round(self / 60)}m"
        return f"{float(self):g}s"
