"""Whom the client believes to be the server: what --tls-ca and --insecure mean to aiohttp."""

import ssl


def tls(tls_ca: str | None, insecure: bool) -> ssl.SSLContext | bool:
    """What aiohttp takes as `ssl`: the system's certificates, those of a file besides, or anybody's."""
    if insecure:
        return False
    return True if tls_ca is None else ssl.create_default_context(cafile=tls_ca)
