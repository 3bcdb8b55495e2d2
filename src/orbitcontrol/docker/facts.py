"""What commands want to know of a Docker engine itself."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import aiodocker
from msgspec import Struct

from orbitcontrol.docker.runtime import DEFAULT_HOST
from orbitcontrol.errors import DockerUnreachable

_DEADLINE = 5.0


class EngineFacts(Struct, frozen=True, kw_only=True):
    """The engine's version, and whether containers survive its restart.

    ``insecure_registries`` are those, and networks of those, that it asks without looking at certificates.
    """

    version: str
    live_restore: bool
    insecure_registries: tuple[str, ...]


async def engine_facts(host: str | None) -> EngineFacts:
    """Asks the engine at ``host``, or at Docker's usual place. Raises ``DockerUnreachable``."""
    address = host or DEFAULT_HOST
    client = aiodocker.Docker(url=address)
    try:
        async with asyncio.timeout(_DEADLINE):
            information = await client.system.info()
    except TimeoutError as error:
        raise DockerUnreachable(f"{address}: no answer in {_DEADLINE:g} s") from error
    except (aiodocker.DockerError, OSError) as error:
        raise DockerUnreachable(f"{address}: no Docker engine answers") from error
    finally:
        await client.close()
    return EngineFacts(
        version=str(information.get("ServerVersion", "unknown")),
        live_restore=bool(information.get("LiveRestoreEnabled")),
        insecure_registries=_insecure(information.get("RegistryConfig") or {}),
    )


def _insecure(registries: Mapping[str, Any]) -> tuple[str, ...]:
    networks = registries.get("InsecureRegistryCIDRs") or []
    named = registries.get("IndexConfigs") or {}
    return (*networks, *(name for name, settings in named.items() if not settings.get("Secure", True)))
