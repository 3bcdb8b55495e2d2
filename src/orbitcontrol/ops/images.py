"""Whether images exist, asked before machines are told to run them.

This machine's Docker engine is asked first: an image that was built here and never pushed exists. What
it does not have is asked of the image's registry, so an operator's machine needs no engine. An answer
that nobody gives is no "no", but it is no "yes" either: the caller is told what to mend.
"""

from __future__ import annotations

import asyncio

from msgspec import Struct

from orbitcontrol.codec.registry import LOOPBACK
from orbitcontrol.docker.facts import engine_facts
from orbitcontrol.docker.registry import DEADLINE, Exists, Missing, Unknown, find_image
from orbitcontrol.docker.runtime import DockerRuntime
from orbitcontrol.errors import OrbitError

ENGINE_PATIENCE = 5.0
"""Seconds of ``DEADLINE`` that the engine may use up."""


class _Engine(Struct, frozen=True, kw_only=True):
    """What the engine has of the images, or why it did not say; and where it asks without TLS."""

    has: frozenset[str] = frozenset()
    insecure: tuple[str, ...] = LOOPBACK
    words: str


async def require_images(images: tuple[str, ...], *, docker_host: str | None) -> None:
    """Returns when all of them exist. Raises ``OrbitError`` naming each that does not, within ``DEADLINE``.

    ``docker_host`` is the engine's address; ``DOCKER_HOST`` or the usual socket without one.
    """
    loop = asyncio.get_running_loop()
    until = loop.time() + DEADLINE
    engine = await _ask_engine(images, docker_host)
    others = [image for image in images if image not in engine.has]
    left = until - loop.time()
    answers = await asyncio.gather(
        *(find_image(image, deadline=left, insecure=engine.insecure) for image in others)
    )
    told = [
        _explained(image, answer, engine)
        for image, answer in zip(others, answers, strict=True)
        if not isinstance(answer, Exists)
    ]
    if told:
        raise OrbitError("\n".join(told))


async def _ask_engine(images: tuple[str, ...], docker_host: str | None) -> _Engine:
    """The engine is asked about itself only where a registry is to be asked next."""
    try:
        runtime = DockerRuntime(docker_host)
    except OrbitError as error:
        return _Engine(words=str(error))
    try:
        async with asyncio.timeout(ENGINE_PATIENCE):
            has = frozenset([image for image in images if await runtime.has_image(image)])
            insecure = (await engine_facts(runtime.host)).insecure_registries if has < set(images) else ()
    except TimeoutError:
        return _Engine(words=f"Docker at {runtime.host} did not answer within {ENGINE_PATIENCE:g} s")
    except OrbitError as error:
        return _Engine(words=str(error))
    finally:
        await runtime.close()
    return _Engine(has=has, insecure=insecure, words=f"Docker at {runtime.host} does not have it")


def _explained(image: str, answer: Missing | Unknown, engine: _Engine) -> str:
    if isinstance(answer, Missing):
        return (
            f"image {image}: it does not exist: {answer.reason}, and {engine.words}. "
            "Push it first; --no-verify sets the revision all the same"
        )
    return (
        f"image {image}: nobody can tell whether it exists: {answer.reason}; {engine.words}. "
        "Mend one of the two; --no-verify sets the revision without asking"
    )
