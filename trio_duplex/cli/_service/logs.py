"""The log of a service: lines on stderr, as text or as JSON.

A record is a word for what happened and facts, written as the library's own log
lines are: ``word key=value …``, values quoted where they need it. Several
services in one process are told apart by ``service=``.
"""

from __future__ import annotations

import contextvars
import json
import logging
import os
import re
import sys
from datetime import UTC, datetime

LOGGER = logging.getLogger("trio_duplex")
"""The library's logger: ours is its child, so both have one format."""

SERVICE = contextvars.ContextVar[str]("service", default="")
"""The name of the service on whose behalf a task runs; inherited by its tasks."""

_PLAIN = re.compile(r"[\w.:/@%+\[\]-]+", re.ASCII)
_PAIR = re.compile(r'(\w+)=("(?:[^"\\]|\\.)*"|\S*)')
_SYSLOG = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3}


class ServiceLog:
    """Writes a word and its facts to a logger."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger

    def debug(self, word: str, **facts: object) -> None:
        """Say what only somebody who looks for something wants to see."""
        self._log(logging.DEBUG, word, facts)

    def info(self, word: str, **facts: object) -> None:
        """Say what happened."""
        self._log(logging.INFO, word, facts)

    def warning(self, word: str, **facts: object) -> None:
        """Say what somebody should look at."""
        self._log(logging.WARNING, word, facts)

    def error(self, word: str, **facts: object) -> None:
        """Say what somebody must look at."""
        self._log(logging.ERROR, word, facts)

    def _log(self, level: int, word: str, facts: dict[str, object]) -> None:
        if self._logger.isEnabledFor(level):
            self._logger.log(level, "%s", line(word, facts))


log = ServiceLog(logging.getLogger("trio_duplex.service"))


def line(word: str, facts: dict[str, object]) -> str:
    """Write a word and its facts as one line."""
    return " ".join([word, *(f"{key}={_value(value)}" for key, value in facts.items())])


def _value(value: object) -> str:
    text = str(value)
    return text if _PLAIN.fullmatch(text) else json.dumps(text)


class TextFormatter(logging.Formatter):
    """``LEVEL line``, behind the time, or behind a priority where journald reads it."""

    def __init__(self, *, journal: bool, several: bool, worker: int = 0) -> None:
        super().__init__()
        self._journal = journal
        self._several = several
        self._worker = worker

    def format(self, record: logging.LogRecord) -> str:
        """Write a record."""
        text = record.getMessage()
        if self._several and (service := SERVICE.get()):
            text = f"{text} service={_value(service)}"
        if self._worker:
            text = f"{text} worker={self._worker}"
        if record.exc_info:
            text = f"{text}\n{self.formatException(record.exc_info)}"
        if self._journal:  # sd-daemon(3): one prefix for each line
            prefix = f"<{_SYSLOG.get(record.levelno, 6)}>"
            return "\n".join(prefix + each for each in text.splitlines())
        when = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        return f"{when.replace('+00:00', 'Z')} {record.levelname} {text}"


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def __init__(self, *, worker: int = 0) -> None:
        super().__init__()
        self._worker = worker

    def format(self, record: logging.LogRecord) -> str:
        """Write a record."""
        message = record.getMessage()
        word, _, rest = message.partition(" ")
        when = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        entry: dict[str, object] = {
            "time": when.replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "service": SERVICE.get() or None,
            "worker": self._worker or None,
            "event": word,
        }
        pairs = _PAIR.findall(rest)
        if pairs or not rest:
            entry |= {key: json.loads(v) if v.startswith('"') else v for key, v in pairs}
        else:  # not one of ours
            entry |= {"event": "message", "text": message}
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps({key: value for key, value in entry.items() if value is not None})


def set_up(*, log_format: str, level: int, several: bool, worker: int = 0) -> None:
    """Send the log of this process to stderr.

    Args:
        log_format: ``text`` or ``json``.
        level: The least that is shown.
        several: Whether lines name their service.
        worker: This process's number among the workers, which its lines bear; 0 for none.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        JsonFormatter(worker=worker)
        if log_format == "json"
        else TextFormatter(journal="JOURNAL_STREAM" in os.environ, several=several, worker=worker)
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    LOGGER.setLevel(level)
