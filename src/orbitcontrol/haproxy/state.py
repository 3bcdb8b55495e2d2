"""What a load balancer remembers over a restart of its daemon, as a file of the state directory."""

from __future__ import annotations

from pathlib import Path

from orbitcontrol.codec.values import decode, encode
from orbitcontrol.errors import HAProxyError, UndecodableValue
from orbitcontrol.haproxy.files import write_atomically
from orbitcontrol.log import Log
from orbitcontrol.planning.proxy import ProxyState

_log = Log(__name__)


class ProxyStateFile:
    """``ProxyState`` in one JSON file, mode 0600 (it holds certificates), replaced by rename."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self) -> ProxyState:
        """What was saved last; an empty state where there is none or it cannot be read."""
        try:
            return decode(self._path.read_bytes(), ProxyState, key=str(self._path))
        except FileNotFoundError:
            return ProxyState()
        except (OSError, UndecodableValue) as error:
            _log.error("the load balancer's state cannot be read, beginning without it", reason=error)
            return ProxyState()

    def save(self, state: ProxyState) -> None:
        """Replaces the file. Raises HAProxyError with the old one in place."""
        try:
            write_atomically(self._path, encode(state))
        except OSError as error:
            raise HAProxyError(f"{self._path}: cannot be written: {error.strerror}") from error
