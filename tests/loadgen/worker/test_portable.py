"""What only the aiohttp transport does: proxies, other loops; and what it asks of aiohttp itself."""

import asyncio
import base64
import gc
import inspect
import re
import socket
from contextlib import asynccontextmanager

import aiohttp
import aiohttp.connector
import pytest
import uvloop
from aiohttp.client_proto import ResponseHandler
from asked import PATIENCE_S
from scripted import TRANSPORTS, Client, Peer, Server, play, request, serve_for_ever, whole

from loadgen.clock import monotonic_ns
from loadgen.plan import Endpoint
from loadgen.worker import portable
from loadgen.worker.exchange import Exchange


class Proxy:
    """A forward proxy: CONNECT, and requests in absolute form. Keeps the heads that it was sent."""

    def __init__(self, user: str | None = None) -> None:
        self.wanted = user and b"proxy-authorization: basic " + base64.b64encode(user.encode()).lower()
        self.heads: list[bytes] = []

    async def __call__(self, peer: Peer) -> None:
        head = await peer.reader.readuntil(b"\r\n\r\n")
        self.heads.append(head)
        if self.wanted and self.wanted not in head.lower():
            await peer.send(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
            return
        method, where, _ = head.split(b"\r\n")[0].split(b" ")
        if method == b"CONNECT":
            host, port = where.rsplit(b":", 1)
            path, onward = b"", b""
        else:
            host, port, path = re.fullmatch(rb"http://(.+):(\d+)(/.*)", where).groups()
            lines = [line for line in head.split(b"\r\n")[1:] if not line.lower().startswith(b"proxy-")]
            onward = method + b" " + path + b" HTTP/1.1\r\n" + b"\r\n".join(lines)
        reader, writer = await asyncio.open_connection(host.strip(b"[]").decode(), int(port))
        if onward:
            writer.write(onward)
        else:
            peer.writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")

        async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            while data := await source.read(65536):
                sink.write(data)
            sink.close()

        try:
            await asyncio.gather(pump(peer.reader, writer), pump(reader, peer.writer))
        finally:
            writer.transport.abort()


@asynccontextmanager
async def proxied(origin: Server, proxy: Proxy, credentials: str = "", **target):
    async with (
        Server(proxy) as server,
        Client("aiohttp", origin.endpoint(proxy=f"http://{credentials}127.0.0.1:{server.port}", **target)) as client,
    ):
        await client.transport.open([1])
        yield client


def test_plain_http_goes_through_a_proxy_in_absolute_form():
    asked: list[bytes] = []

    async def script(peer: Peer) -> None:
        asked.append(await peer.answer())

    async def main() -> None:
        proxy = Proxy()
        async with Server(script) as origin, proxied(origin, proxy) as client:
            exchange = await client.ask()
            assert (exchange.error, len(exchange.kinds)) == (None, 3)
            assert proxy.heads[0].startswith(b"POST http://127.0.0.1:%d/v1/chat/completions HTTP/1.1\r\n" % origin.port)
            assert asked == [request()]

    uvloop.run(main())


def test_https_goes_through_a_proxys_tunnel(authority, tls):
    async def main() -> None:
        proxy = Proxy()
        async with (
            Server(serve_for_ever, tls=tls) as origin,
            proxied(origin, proxy, tls_ca=str(authority.ca_file)) as client,
        ):
            for _ in range(2):
                exchange = await client.ask()
                assert (exchange.error, len(exchange.kinds), exchange.connect_ns) == (None, 3, None)
            assert len(proxy.heads) == 1
            assert proxy.heads[0].startswith(b"CONNECT 127.0.0.1:%d HTTP/1.1\r\n" % origin.port)

    uvloop.run(main())


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_the_proxys_credentials_come_from_its_url(scheme, authority, tls):
    async def main() -> None:
        ca = str(authority.ca_file)
        proxy = Proxy("ann:p@ss word")
        async with Server(serve_for_ever, tls=tls if scheme == "https" else None) as origin:
            async with proxied(origin, proxy, "ann:p%40ss%20word@", tls_ca=ca) as client:
                assert (await client.ask()).error is None
            async with proxied(origin, proxy, tls_ca=ca) as client:
                exchange = await client.ask()
                assert exchange.error == {"http": "http-407", "https": "connect-failed"}[scheme]
            assert "407" in exchange.words or scheme == "http"

    uvloop.run(main())


def test_a_proxy_that_is_not_there_refuses():
    async def main() -> None:
        async with Server(serve_for_ever) as server:
            port = server.port
        async with Client("aiohttp", Endpoint("127.0.0.1", 9, False, "/", proxy=f"http://127.0.0.1:{port}")) as client:
            await client.transport.open([1])
            exchange = await client.ask()
            assert (exchange.error, exchange.words[:10]) == ("connect-refused", "the proxy:")

    uvloop.run(main())


def test_a_request_in_absolute_form_keeps_everything_behind_its_line():
    data = b"POST /v1?a=b HTTP/1.1\r\nHost: h\r\n\r\nbody with POST / in it\r\n"
    assert portable._for_proxy(data, b"http://h:80", b"Proxy-Authorization: Basic eA==\r\n") == (
        b"POST http://h:80/v1?a=b HTTP/1.1\r\nProxy-Authorization: Basic eA==\r\nHost: h\r\n\r\nbody with POST / in it\r\n"
    )


@pytest.mark.parametrize("https", [False, True])
def test_it_runs_on_the_standard_librarys_loop_too(https, authority, tls):
    async def ask(client: Client, server: Server) -> None:
        for _ in range(3):
            assert (await client.ask()).error is None
        assert len(server.peers) == 1

    context = tls if https else None
    play("aiohttp", serve_for_ever, ask=ask, run=asyncio.run, tls=context, tls_ca=str(authority.ca_file))


def test_a_request_leaves_at_the_time_that_is_noted():
    """The loop stands still behind submit(): only what the transport wrote at once can have reached the other end."""

    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as listening:
            async with Client("aiohttp", Endpoint("127.0.0.1", listening.getsockname()[1], False, "/")) as client:
                await client.transport.open([1])
                accepted, _ = listening.accept()
                with accepted:
                    accepted.settimeout(PATIENCE_S)
                    exchange = client.submit()
                    assert accepted.recv(65536) == request()
                    assert 0 < exchange.sent_ns < monotonic_ns()
                    client.transport.abort(exchange, "cancelled")

    uvloop.run(main())


# memory


@pytest.mark.parametrize("transport", list(TRANSPORTS))
@pytest.mark.parametrize("case", ["answered", "closed", "refused", "dns", "untrusted", "aborted"])
def test_nothing_is_left_for_a_garbage_collector(transport, case, tls):
    """Workers run without one: whatever a request leaves behind in a cycle stays until the end."""

    async def answer_and_close(peer: Peer) -> None:
        await peer.request()
        await peer.send(whole(3).replace(b"\r\n", b"\r\nConnection: close\r\n", 1))
        await peer.gone()

    async def stall(peer: Peer) -> None:
        await peer.request()
        await peer.gone()

    script = {"closed": answer_and_close, "aborted": stall}.get(case, serve_for_ever)

    async def ask(client: Client, server: Server) -> None:
        if case == "refused":
            server._server.close()

        async def ask_some(n: int) -> None:
            for _ in range(n):
                exchange = client.submit()
                if case == "aborted":
                    await asyncio.sleep(0.002)
                    client.transport.abort(exchange, "cancelled")
                await client.decoded(exchange)
                client.ends.clear()
                client._decodings = {}
            await asyncio.sleep(0.01)

        await ask_some(3)
        gc.collect()
        gc.disable()
        gc.set_debug(gc.DEBUG_SAVEALL)
        try:
            await ask_some(20)
            gc.collect()
            left = [thing for thing in gc.garbage if of_ours(thing)]
            kinds = sorted({type(thing).__qualname__ for thing in left})
            assert len(left) < 20, f"{len(left)} objects in cycles: {kinds}"
        finally:
            gc.set_debug(0)
            gc.garbage.clear()
            gc.enable()

    def of_ours(thing: object) -> bool:
        module = type(thing).__module__
        return module.startswith(("loadgen", "aiohttp", "httptools")) or isinstance(thing, (Exchange, BaseException))

    options = {"tls": tls} if case == "untrusted" else {}
    if case == "dns":
        options["host"] = "nowhere.invalid"
    play(transport, script, ask=ask, opened=False, **options)


# what is asked of aiohttp


def test_aiohttp_still_offers_what_this_transport_stands_on():
    connect = inspect.signature(aiohttp.TCPConnector.connect)
    assert list(connect.parameters) == ["self", "req", "traces", "timeout"]
    assert inspect.iscoroutinefunction(aiohttp.TCPConnector.connect)
    for name in ("protocol", "transport"):
        assert isinstance(inspect.getattr_static(aiohttp.connector.Connection, name), property), name
    assert list(inspect.signature(aiohttp.connector.Connection.close).parameters) == ["self"]
    assert isinstance(inspect.getattr_static(ResponseHandler, "should_close"), property)
    wanted = {"method", "url", "loop", "ssl", "proxy"}
    assert wanted <= set(inspect.signature(aiohttp.ClientRequest).parameters)
    wanted = {"limit", "ttl_dns_cache", "resolver"}
    assert wanted <= set(inspect.signature(aiohttp.TCPConnector).parameters)


def test_the_sources_name_no_private_attribute_of_aiohttp():
    source = inspect.getsource(portable)
    for foreign in ("_connector", "opened", "protocol", "transport", "aiohttp"):
        assert not re.search(rf"\b{foreign}\._", source), foreign


def test_bytes_before_the_first_request_make_the_connection_unusable():
    """aiohttp's protocol puts them by and says so in should_close, which is all that this transport looks at."""

    async def main() -> None:
        handler = ResponseHandler(asyncio.get_running_loop())
        assert not handler.should_close
        handler.data_received(b"unasked")
        assert handler.should_close

    asyncio.run(main())
