#!/usr/bin/env python3
"""Both ends of WebSockets (RFC 6455) that a proxy stands between: an origin that says each message again, under TLS, and clients
that say the next when they have heard the last. Nothing is looked at that a proxy does not change.

    websocket.py origin PORT CERTIFICATE KEY
    websocket.py clients PORT PATH CONNECTIONS MESSAGES
"""

import asyncio
import base64
import hashlib
import os
import ssl
import sys

# 64 bytes in one binary frame: from an origin as they are, from a client under a mask of zeros, which leaves them so.
TEXT = bytes(range(64))
HEARD = bytes([0x82, len(TEXT)]) + TEXT
SAID = bytes([0x82, 0x80 | len(TEXT)]) + bytes(4) + TEXT
MAGIC = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class Origin(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport, self.buffer, self.open = transport, b"", False

    def data_received(self, data):
        self.buffer += data
        if not self.open:
            head, end, rest = self.buffer.partition(b"\r\n\r\n")
            if not end:
                return
            lines = (line.split(b": ", 1) for line in head.split(b"\r\n")[1:])
            fields = {name.lower(): value for name, value in lines}
            if not fields.get(b"authorization", b"").startswith(b"Bearer "):
                self.transport.close()
                return
            accept = base64.b64encode(hashlib.sha1(fields[b"sec-websocket-key"] + MAGIC).digest())
            switched = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            self.transport.write(switched + b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n")
            self.buffer, self.open = rest, True
        count, left = divmod(len(self.buffer), len(SAID))
        if count:
            self.buffer = self.buffer[len(self.buffer) - left :]
            self.transport.write(HEARD * count)


class Client(asyncio.Protocol):
    def __init__(self, head, messages, ended):
        self.head, self.left, self.ended = head, messages, ended
        self.buffer, self.open = b"", False

    def connection_made(self, transport):
        self.transport = transport
        transport.write(self.head)

    def data_received(self, data):
        self.buffer += data
        if not self.open:
            head, end, self.buffer = self.buffer.partition(b"\r\n\r\n")
            if not end:
                self.buffer = head
                return
            if not head.startswith(b"HTTP/1.1 101 "):
                self.ended.set_exception(RuntimeError(head.decode(errors="replace")))
                return
            self.open = True
            self.transport.write(SAID)
        while len(self.buffer) >= len(HEARD):
            if not self.buffer.startswith(HEARD):
                self.ended.set_exception(RuntimeError(f"heard {self.buffer[:80]!r}"))
                return
            self.buffer = self.buffer[len(HEARD) :]
            self.left -= 1
            if self.left == 0:
                self.transport.close()
                return
            self.transport.write(SAID)

    def connection_lost(self, error):
        if not self.ended.done():
            lost = RuntimeError(f"the connection ended, {self.left} messages too early")
            self.ended.set_exception(lost) if self.left else self.ended.set_result(None)


async def origin(port, certificate, key):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server = await asyncio.get_running_loop().create_server(Origin, "127.0.0.1", int(port), ssl=context, backlog=512)
    await server.serve_forever()


async def clients(port, path, connections, messages):
    key = base64.b64encode(os.urandom(16)).decode()
    head = (
        f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n"
    ).encode()
    loop = asyncio.get_running_loop()
    all_ended = [loop.create_future() for _ in range(int(connections))]
    each = int(messages) // len(all_ended)
    for ended in all_ended:
        await loop.create_connection(lambda ended=ended: Client(head, each, ended), "127.0.0.1", int(port))
    await asyncio.gather(*all_ended)
    print(each * len(all_ended))


if __name__ == "__main__":
    asyncio.run({"origin": origin, "clients": clients}[sys.argv[1]](*sys.argv[2:]))
