"""The Docker engine as a ``ContainerRuntime``, on aiodocker.

Every call has a deadline of its own, and every failure becomes a DockerError that says what to do.
What a running container is inspected for (the true state and start time) is kept, while somebody
listens to events, until one says that it changed: a look at a hundred quiet containers is one call.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager
from typing import Any, cast

import aiodocker
import aiohttp
from msgspec import structs

from orbitcontrol.codec.imageref import canonical, fully_qualified, qualified_name, registry_of
from orbitcontrol.docker.client import Client
from orbitcontrol.docker.credentials import credentials_for
from orbitcontrol.docker.observation import image as observed_image
from orbitcontrol.docker.observation import inspected, is_inspected, listed, references, seconds
from orbitcontrol.errors import DockerError, DockerUnreachable, PortTaken, UsageError
from orbitcontrol.log import Log
from orbitcontrol.model.containers import ContainerEvent, ContainerSpec, ObservedContainer, ObservedImage

DEFAULT_HOST = "unix:///var/run/docker.sock"

CALL_TIMEOUT = 10.0
"""Seconds for a question to the engine."""

CHANGE_TIMEOUT = 60.0
"""Seconds for creating, starting, removing; and beyond its grace for stopping."""

PULL_SILENCE = 120.0
"""Seconds that a pull may go on without a word from the engine."""

EVENT_SILENCE = 10.0
"""Seconds without an event after which the engine is asked whether it is still there."""

LOG_TIMEOUT = 2.0
"""Seconds for reading the end of a container's log."""

_log = Log(__name__)

_EVENTS = ["create", "start", "die", "destroy", "rename", "pause", "unpause"]
_CANNOT_CONNECT = 900  # aiodocker's own status for a failed connection
_MOST_OF_A_LOG = 1 << 20  # characters read at most for its end
_ASK_TO_LOG_IN = ("no basic auth credentials", "unauthorized", "incorrect username or password", "denied")
_NO_ROOM_ON_PORT = ("port is already allocated", "address already in use")


class DockerRuntime:
    """One Docker engine at ``unix://…`` or ``tcp://…``; ``DOCKER_HOST`` or the usual socket by default.

    Nothing is connected before the first call, and a lost connection is made anew by the next.
    """

    def __init__(self, host: str | None = None) -> None:
        self.host = host or os.environ.get("DOCKER_HOST") or DEFAULT_HOST
        if not self.host.startswith(("unix://", "tcp://", "http://", "https://")):
            raise UsageError(f"Docker host {self.host}: write it as unix:///path or tcp://host:port")
        self._client: aiodocker.Docker | None = None
        self._inspected: dict[str, ObservedContainer] = {}
        self._changes = 0
        self._listeners = 0

    async def containers(self) -> tuple[ObservedContainer, ...]:
        """All containers; the running ones with their start time."""
        before = self._changes
        async with self._call("list the containers", CALL_TIMEOUT) as docker:
            entries = await docker.containers.list(all=True)
            seen = [listed(entry._container) for entry in entries]  # noqa: SLF001 -- has no accessor
            looks = (self._look(docker, container) for container in seen)
            looked = await asyncio.gather(*looks, return_exceptions=True)
            for failure in looked:
                if isinstance(failure, BaseException):
                    raise failure
        found = tuple(container for container in looked if isinstance(container, ObservedContainer))
        if self._listeners and before == self._changes:
            self._inspected = {one.id: one for one in found if one.config}
        return found

    @asynccontextmanager
    async def events(self) -> AsyncIterator[AsyncIterator[ContainerEvent]]:
        """Subscribes, and only then lets the caller go on: what it lists next is not older.

        The engine answers a moment before it listens, so the subscription asks for everything since
        a time that the engine itself told before. Each subscription has a client of its own: after a
        restart of the engine aiodocker's old one never yields again.
        """
        client = Client(url=self.host)
        try:
            with self._translated("listen to its events", CALL_TIMEOUT):
                async with asyncio.timeout(CALL_TIMEOUT):
                    info = await client.system.info()
            events: Any = client.events  # has no type annotations
            subscriber = events.subscribe(
                since=f"{seconds(info['SystemTime']):.6f}",
                filters=json.dumps({"type": ["container"], "event": _EVENTS}),
            )
            self._listeners += 1
            self._forget()  # also what a look under way has seen before it
            try:
                async with aclosing(self._events(subscriber)) as stream:
                    yield stream
            finally:
                self._listeners -= 1
                self._forget()
        finally:
            await _close(client)

    async def has_image(self, image: str) -> bool:
        async with self._call(f"look for the image {image}", CALL_TIMEOUT) as docker:
            try:
                await docker.images.inspect(canonical(image))
            except aiodocker.DockerError as error:
                if error.status == 404:
                    return False
                raise
        return True

    async def pull(self, image: str) -> None:
        """Pulls the image. Errors inside the engine's progress stream count, and so does its early end."""
        auth = await credentials_for(image)
        async with self._call(f"pull {image}", None, registry=registry_of(image)) as docker:
            pulled = docker.images.pull(fully_qualified(image), auth=auth, stream=True)
            async with aclosing(cast("AsyncGenerator[dict[str, Any]]", pulled)) as progress:
                while True:
                    try:
                        async with asyncio.timeout(PULL_SILENCE):
                            await anext(progress)
                    except StopAsyncIteration:
                        break
        if not await self.has_image(image):
            raise DockerError(f"Docker at {self.host}: the pull of {image} broke off: it is tried again")

    async def images(self, names: Collection[str]) -> tuple[ObservedImage, ...]:
        """The images that have one of the names (without tags, registry spelt out)."""
        async with self._call("list the images", CALL_TIMEOUT) as docker:
            return tuple(
                [
                    observed_image(entry, await docker.images.inspect(entry["Id"]))
                    for entry in await docker.images.list()
                    if any(qualified_name(reference) in names for reference in references(entry))
                ]
            )

    async def remove_image(self, reference: str) -> None:
        """Removes the reference, and the image with its last one; never one that a container uses."""
        async with self._call(f"remove the image {reference}", CHANGE_TIMEOUT, gone_is_fine=True) as docker:
            await docker.images.delete(reference)

    async def log_tail(self, container_id: str, *, lines: int, size: int) -> str:
        """The last lines of what the container wrote, ``size`` characters at most."""
        tail, read = "", 0
        async with self._call(f"read the log of the container {container_id[:12]}", LOG_TIMEOUT) as docker:
            container = docker.containers.container(container_id)
            if (await container.show())["State"]["Running"]:  # followed, its log would not end
                return "".join(await container.log(stdout=True, stderr=True, tail=lines))[-size:]
            log = container.log(stdout=True, stderr=True, follow=True, tail=lines)
            async with aclosing(cast("AsyncGenerator[str]", log)):
                async for piece in log:
                    tail = (tail + piece)[-size:]
                    read += len(piece)
                    if read > _MOST_OF_A_LOG:
                        break
        return tail

    async def create(self, spec: ContainerSpec) -> str:
        async with self._call(f"create the container {spec.name}", CHANGE_TIMEOUT) as docker:
            container = await docker.containers.create(spec.body, name=spec.name)
            return str(container.id)

    async def start(self, container_id: str) -> None:
        """Starts it. Raises PortTaken when a host port that it publishes is in use."""
        async with self._call(f"start the container {container_id[:12]}", CHANGE_TIMEOUT) as docker:
            await docker.containers.container(container_id).start()

    async def stop(self, container_id: str, *, grace: float) -> None:
        seconds = math.ceil(grace)
        async with self._call(
            f"stop the container {container_id[:12]}", seconds + CHANGE_TIMEOUT, gone_is_fine=True
        ) as docker:
            # ``t`` is the grace period; aiodocker's ``timeout`` is the request's own.
            await docker.containers.container(container_id).stop(
                t=seconds, timeout=aiohttp.ClientTimeout(total=None)
            )

    async def rename(self, container_id: str, name: str) -> None:
        async with self._call(f"rename the container {container_id[:12]}", CHANGE_TIMEOUT) as docker:
            await docker.containers.container(container_id).rename(name)
            self._forget(container_id)

    async def remove(self, container_id: str) -> None:
        async with self._call(
            f"remove the container {container_id[:12]}", CHANGE_TIMEOUT, gone_is_fine=True
        ) as docker:
            await docker.containers.container(container_id).delete(v=True)

    async def close(self) -> None:
        if self._client is not None:
            await _close(self._client)
            self._client = None

    async def _look(self, docker: aiodocker.Docker, container: ObservedContainer) -> ObservedContainer | None:
        """The container with its start time if it runs; None when it is gone meanwhile."""
        if not is_inspected(container):
            return container
        known = self._inspected.get(container.id)
        if known is not None and known.state == container.state:
            return structs.replace(
                container,
                image=known.image,
                started_at=known.started_at,
                exit_code=known.exit_code,
                config=known.config,
                host_config=known.host_config,
            )
        try:
            details = await docker.containers.container(container.id).show()
        except aiodocker.DockerError as error:
            if error.status == 404:
                return None
            raise
        return inspected(container, details)

    async def _events(self, subscriber: Any) -> AsyncGenerator[ContainerEvent]:
        while True:
            try:
                async with asyncio.timeout(EVENT_SILENCE):
                    event = await subscriber.get()
            except TimeoutError:
                await self._prove_alive()
                continue
            if event is None:
                raise DockerUnreachable(f"Docker at {self.host} ended its event stream: was it restarted?")
            self._forget(event["Actor"]["ID"])
            name = event["Actor"]["Attributes"].get("name", "")
            yield ContainerEvent(event["Action"], event["Actor"]["ID"], name)

    async def _prove_alive(self) -> None:
        """Asks something cheap: an engine that hangs has an event stream that is only silent."""
        async with self._call("answer", CALL_TIMEOUT) as docker:
            await docker.containers.list(limit=1)

    def _forget(self, container_id: str | None = None) -> None:
        """Drops what was inspected of one container, or of all; a look under way keeps nothing."""
        self._changes += 1
        if container_id is None:
            self._inspected.clear()
        else:
            self._inspected.pop(container_id, None)

    @asynccontextmanager
    async def _call(
        self, what: str, timeout: float | None, *, gone_is_fine: bool = False, registry: str = ""
    ) -> AsyncIterator[aiodocker.Docker]:
        """The client, within a deadline, with failures translated; ``registry`` is who may refuse."""
        if self._client is None:
            self._client = Client(url=self.host)
        with self._translated(what, timeout, registry=registry):
            async with asyncio.timeout(timeout):
                try:
                    yield self._client
                except aiodocker.DockerError as error:
                    if not (gone_is_fine and error.status in {304, 404}):
                        raise

    @contextmanager
    def _translated(self, what: str, timeout: float | None, *, registry: str = "") -> Iterator[None]:
        try:
            yield
        except TimeoutError as error:
            self._start_over()
            limit = PULL_SILENCE if timeout is None else timeout
            raise DockerUnreachable(
                f"Docker at {self.host} did not {what} within {limit:g} s: look at its log, or restart it"
            ) from error
        except aiodocker.DockerError as error:
            raise self._error(what, error, registry) from error
        except (aiohttp.ClientError, OSError) as error:
            self._start_over()
            raise DockerUnreachable(
                f"Docker at {self.host} broke the connection ({error}): is it running?"
            ) from error

    def _error(self, what: str, error: aiodocker.DockerError, registry: str) -> DockerError:
        if error.status == _CANNOT_CONNECT:
            self._start_over()
            return DockerUnreachable(
                f"no Docker engine answers at {self.host}: start it, or name its address with --docker-host"
            )
        kind = PortTaken if any(text in error.message for text in _NO_ROOM_ON_PORT) else DockerError
        message = error.message.strip()
        if registry and any(text in message for text in _ASK_TO_LOG_IN):
            message += f" (run docker login {registry} as the user that the daemon runs as)"
        return kind(f"Docker at {self.host} could not {what}: {message}")

    def _start_over(self) -> None:
        """The engine that answers next may be another version: ask it again which API it speaks."""
        if self._client is not None:
            self._client.api_version = "auto"


async def _close(client: aiodocker.Docker) -> None:
    """Closes a client whose event stream may have failed; that failure has been told already."""
    try:
        await client.close()
    except (aiodocker.DockerError, aiohttp.ClientError, OSError) as error:
        _log.debug("closing a connection to Docker", reason=error)
        await client.session.close()
