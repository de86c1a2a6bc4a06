"""A WebSocket server over TLS: upstream_websocket.py CERTIFICATE KEY. Its first line is its port; then a line of JSON for each
connection."""

import json
import ssl
import sys
import threading

from websockets.sync.server import serve

EVENTS = 3
PATIENCE_SECONDS = 5

lock = threading.Lock()


def main():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*sys.argv[1:])
    with serve(handle, "127.0.0.1", 0, ssl=context, max_size=None) as server:
        say(server.socket.getsockname()[1])
        server.serve_forever()


def handle(socket):
    _, run, what = socket.request.path.split("/")
    run = int(run.removeprefix("r"))
    headers = [[name.lower(), value] for name, value in socket.request.headers.raw_items()]
    say({"run": run, "target": f"/{what}", "headers": headers})
    if what == "close":
        socket.close(4001, "that is all")
    elif what == "events":
        events(socket, run)
    else:
        for message in socket:
            socket.send(message)


def events(socket, run):
    for number in range(1, EVENTS + 1):
        socket.send(str(number))
        try:
            socket.recv(PATIENCE_SECONDS)
        except TimeoutError:
            say({"run": run, "late": True})


def say(what):
    with lock:
        print(json.dumps(what), flush=True)


main()
