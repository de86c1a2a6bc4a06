"""grpcio. A channel has no path prefix: the route's label goes into the authority. It sends `http_proxy` a CONNECT,
and `https_proxy` one too.

Messages are bytes of the test's own; no code is generated for them.
"""

import hashlib

import grpc

from plan import run


class Client:
    version = grpc.__version__

    def __init__(self, place):
        self.place = place
        self.scheme, _, self.target = place.base.partition("://")
        self.fresh()

    def fresh(self):
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1)]
        if self.place.authority:
            options.append(("grpc.default_authority", self.place.authority))
        if self.scheme == "https":
            self.channel = grpc.secure_channel(self.target, grpc.ssl_channel_credentials(), options)
        else:
            self.channel = grpc.insecure_channel(self.target, options)

    @property
    def metadata(self):
        credentials = ((name.lower(), value) for name, value in self.place.credentials.items())
        return [("x-run", str(self.place.run)), *credentials]


class GrpcPlan:
    def __init__(self, client):
        self.client = client

    def unary(self, method="Echo", message=b"hello"):
        return self.client.channel.unary_unary(f"/peers.Plan/{method}")(message, metadata=self.client.metadata, timeout=20)

    def message(self, step):
        return {"text": self.unary(message=step["text"].encode()).decode()}

    def binary(self, step):
        content = self.unary("Large", str(step["pieces"]).encode())
        return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}

    def stream(self, step):
        pieces = (f"{number:015}\n".encode() * 1024 for number in range(step["pieces"]))
        call = self.client.channel.stream_unary("/peers.Plan/Upload")
        return {"sha256": call(pieces, metadata=self.client.metadata, timeout=20).decode()}

    def events(self, step):
        events = []
        for message in self.client.channel.unary_stream("/peers.Plan/Events")(b"", metadata=self.client.metadata, timeout=20):
            events.append(int(message))
            self.unary("Acknowledge", message)
        return {"events": events}

    def status(self, step):
        """The status of a call is in its trailers."""
        try:
            self.unary("Fail")
        except grpc.RpcError as error:
            trailing = {name: value for name, value in error.trailing_metadata()}
            return {"code": error.code().name, "text": error.details(), "reason": trailing.get("x-trailer")}

    def keep_alive(self, step):
        self.client.fresh()
        for _ in range(step["requests"]):
            self.unary()
        return {}

    def denied(self, step):
        try:
            self.unary("Denied")
        except grpc.RpcError as error:
            return {"code": error.code().name, "text": error.details()}


run(Client, GrpcPlan)
