"""websockets: a URL of ws:// with the route's prefix. It sends HTTP_PROXY a CONNECT, and for wss:// HTTPS_PROXY."""

import hashlib
import json

import websockets
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from plan import refusal, run


class Client:
    version = websockets.__version__

    def __init__(self, place):
        self.place = place
        self.base = place.base.replace("http", "ws", 1)

    def connect(self, path):
        return connect(self.base + path, additional_headers=self.place.credentials, max_size=None)


class WebSocketPlan:
    def __init__(self, client):
        self.client = client

    def message(self, step):
        with self.client.connect("/echo") as socket:
            socket.send(step["text"])
            return {"text": socket.recv()}

    def binary(self, step):
        content = b"".join(f"{number:015}\n".encode() * 1024 for number in range(step["pieces"]))
        with self.client.connect("/echo") as socket:
            socket.send(content)
            answer = socket.recv()
        return {"bytes": len(answer), "sha256": hashlib.sha256(answer).hexdigest()}

    def events(self, step):
        events = []
        with self.client.connect("/events") as socket:
            for message in socket:
                events.append(int(message))
                socket.send(message)
        return {"events": events}

    def ping(self, step):
        with self.client.connect("/echo") as socket:
            return {"answered": socket.ping().wait(10)}

    def close(self, step):
        with self.client.connect("/close") as socket:
            try:
                socket.recv()
            except ConnectionClosed as closed:
                return {"status": closed.rcvd.code, "text": closed.rcvd.reason}

    def denied(self, step):
        try:
            self.client.connect("/denied")
        except InvalidStatus as error:
            answer = error.response
            return refusal(answer.status_code, answer.headers["content-type"], json.loads(answer.body))


run(Client, WebSocketPlan)
