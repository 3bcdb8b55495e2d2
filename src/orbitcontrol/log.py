"""Logging as constant messages with fields.

``log.info("container started", service="web", reason="new revision")`` prints, as text,
``12:00:01 info  agent.containers: container started service=web reason="new revision"``
and, as JSON, one object a line. Secrets never become fields: what is logged is names and reasons.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Literal

_ROOT = "orbitcontrol"


class Log:
    """A named logger whose keyword arguments are the record's fields."""

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(name)

    def debug(self, message: str, /, **fields: object) -> None:
        self._logger.debug(message, extra={"fields": fields})

    def info(self, message: str, /, **fields: object) -> None:
        self._logger.info(message, extra={"fields": fields})

    def warning(self, message: str, /, **fields: object) -> None:
        self._logger.warning(message, extra={"fields": fields})

    def error(self, message: str, /, *, exc_info: bool = False, **fields: object) -> None:
        self._logger.error(message, exc_info=exc_info, extra={"fields": fields})


def configure(*, format: Literal["text", "json"], debug: bool) -> None:
    """Sends the project's log to standard error in the given format."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonFormatter() if format == "json" else _TextFormatter())
    logger = logging.getLogger(_ROOT)
    logger.handlers = [handler]
    logger.propagate = False
    logger.setLevel(logging.DEBUG if debug else logging.INFO)


def _short(name: str) -> str:
    return name.removeprefix(_ROOT + ".")


def _fields(record: logging.LogRecord) -> dict[str, object]:
    fields: dict[str, object] = getattr(record, "fields", {})
    return fields


class _TextFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created).astimezone()
        head = f"{moment:%H:%M:%S}.{record.msecs:03.0f} {record.levelname.lower():<7} {_short(record.name)}: "
        fields = (f"{name}={_quoted(value)}" for name, value in _fields(record).items() if value != "")
        line = head + " ".join([record.getMessage(), *fields])
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "Time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "Level": record.levelname.lower(),
            "Logger": _short(record.name),
            "Message": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            entry["Exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, default=str)


def _quoted(value: object) -> str:
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if not text or any(c in text for c in ' "\n=') else text
