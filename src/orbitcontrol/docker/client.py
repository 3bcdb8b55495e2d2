"""aiodocker's client, which lets go of a connection also when an answer is not read to its end."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiodocker
import aiohttp


class Client(aiodocker.Docker):
    """A client whose streams may be left, or cancelled, at any point."""

    @asynccontextmanager
    async def _query(self, *arguments: Any, **options: Any) -> AsyncIterator[aiohttp.ClientResponse]:
        """The answer; aiodocker leaves one that is given up to the garbage collector."""
        async with super()._query(*arguments, **options) as response:
            try:
                yield response
            except BaseException:
                response.close()
                raise
