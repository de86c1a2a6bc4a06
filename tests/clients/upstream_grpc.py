"""A gRPC server over TLS: upstream_grpc.py CERTIFICATE KEY. Its first line is its port; then a line of JSON for each call."""

import hashlib
import json
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import grpc

EVENTS = 3
PATIENCE_SECONDS = 5

acknowledged = {}
lock = threading.Lock()


def main():
    certificate, key = (open(path, "rb").read() for path in sys.argv[1:])
    server = grpc.server(ThreadPoolExecutor(16), options=[("grpc.max_send_message_length", -1)])
    server.add_generic_rpc_handlers([Plan()])
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([(key, certificate)]))
    server.start()
    say(port)
    server.wait_for_termination()


class Plan(grpc.GenericRpcHandler):
    def service(self, call):
        metadata = dict(call.invocation_metadata)
        run = int(metadata["x-run"])
        say({"run": run, "target": call.method, "headers": [[name, value] for name, value in call.invocation_metadata]})
        handlers = {
            "Echo": grpc.unary_unary_rpc_method_handler(lambda message, _: message),
            "Large": grpc.unary_unary_rpc_method_handler(lambda message, _: large(int(message))),
            "Upload": grpc.stream_unary_rpc_method_handler(lambda pieces, _: digest(pieces)),
            "Events": grpc.unary_stream_rpc_method_handler(lambda _, context: events(run)),
            "Acknowledge": grpc.unary_unary_rpc_method_handler(lambda message, _: acknowledge(run, message)),
            "Fail": grpc.unary_unary_rpc_method_handler(lambda _, context: fail(context)),
        }
        return handlers.get(call.method.rpartition("/")[2])


def large(pieces):
    return b"".join(f"{number:015}\n".encode() * 1024 for number in range(pieces))


def digest(pieces):
    content = hashlib.sha256()
    for piece in pieces:
        content.update(piece)
    return content.hexdigest().encode()


def events(run):
    for number in range(1, EVENTS + 1):
        yield str(number).encode()
        if number < EVENTS and not gate(run, number).wait(PATIENCE_SECONDS):
            say({"run": run, "late": True})


def acknowledge(run, message):
    gate(run, int(message)).set()
    return message


def gate(run, number):
    with lock:
        return acknowledged.setdefault((run, number), threading.Event())


def fail(context):
    context.set_trailing_metadata((("x-trailer", "came"),))
    context.abort(grpc.StatusCode.NOT_FOUND, "no such thing: zażółć")


def say(what):
    with lock:
        print(json.dumps(what), flush=True)


main()
