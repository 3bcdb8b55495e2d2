"""Why TLS with an etcd member does not come about, in words that name the certificate to mend.

gRPC says "handshake failed" for an expired certificate, and hides the server's complaint about ours
altogether. So when there is no connection, the handshake is repeated with Python's own TLS, which tells.
"""

from __future__ import annotations

import asyncio
import ssl

from orbitcontrol.store.settings import EtcdSettings


async def tls_complaint(endpoint: str, settings: EtcdSettings, *, within: float) -> str | None:
    """What either side has against the other's certificate; None when neither complains in time."""
    if not settings.encrypted:
        return None
    try:
        context = _context(settings)
    except (OSError, ssl.SSLError) as error:
        return f"the certificate files cannot be used: {_words(error)}"
    try:
        async with asyncio.timeout(within):
            await _shake_hands(endpoint, context)
    except ssl.SSLCertVerificationError as error:
        return f"{endpoint}: its certificate is not accepted: {error.verify_message}"
    except ssl.SSLError as error:
        return f"{endpoint}: it refuses {_ours(settings)}: {_words(error)}"
    except (OSError, TimeoutError):
        pass  # gRPC has better words for what is not about certificates
    return None


async def _shake_hands(endpoint: str, context: ssl.SSLContext) -> None:
    """Connects, and waits for the server's first word."""
    host, _, port = endpoint.rpartition(":")
    host = host.strip("[]")
    reader, writer = await asyncio.open_connection(host, int(port), ssl=context, server_hostname=host)
    try:
        # A server judges the client's certificate after the client holds the handshake for done.
        await reader.read(1)
    finally:
        writer.transport.abort()


def _context(settings: EtcdSettings) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=settings.ca)
    context.set_alpn_protocols(["h2"])
    if settings.cert is not None:
        context.load_cert_chain(settings.cert, settings.key)
    return context


def _ours(settings: EtcdSettings) -> str:
    if settings.cert is None:
        return "a client without a certificate (give one)"
    return f"the client certificate {settings.cert} (is it expired, or signed by another authority?)"


def _words(error: Exception) -> str:
    """OpenSSL's reason without its codes."""
    reason = error.reason if isinstance(error, ssl.SSLError) else None
    return reason.replace("_", " ").lower() if reason else str(error)
