"""The steps of the plan, for any client that can make a request.

Lines of JSON come in on standard input, and each is answered with one: first the place to call, then a step at a time. What a
step must come to is for tests/peers/clients to judge; here it is only taken.

A client has

    version                                  what is measured
    request(method, path, headers, body)     one call, no redirect followed; a body that is an iterator is streamed
    lines(path)                              the lines of an answer, each as it arrives
    follow(path)                             a GET that follows redirects
    fresh()                                  forget all connections

each may raise Cannot where the client has no such thing.
"""

import hashlib
import json
import sys
import traceback
from dataclasses import dataclass


class Cannot(Exception):
    """The client has no way to do this; the text says so to the reader of the table."""


class Failed(Exception):
    """The client tried and failed; the text says how, the same in every run."""


@dataclass
class Answer:
    status: int
    headers: dict
    body: bytes
    # The version of HTTP that was spoken, where the client knows.
    http: str | None = None


@dataclass
class Place:
    """Where to call: a base URL, and the proxy where it is not for the environment to say."""

    run: int
    base: str
    # The host to name where it is not that of the base.
    authority: str | None
    proxy: str | None
    own: str

    @property
    def credentials(self):
        """What an app carries that has not been told that it needs none any more."""
        return {"Authorization": f"Bearer {self.own}", "X-Api-Key": self.own}


class Plan:
    def __init__(self, client):
        self.client = client

    def get(self, step):
        return told(self.client.request("GET", "/get?q=a%20b&list=1&list=2", {}, None))

    def json(self, step):
        body = json.dumps(step["body"]).encode()
        return told(self.client.request("POST", "/json", {"Content-Type": "application/json"}, body))

    def upload(self, step):
        pieces = (piece(number) for number in range(step["pieces"]))
        return told(self.client.request("POST", "/upload", {"Content-Type": "text/plain"}, pieces))

    def large(self, step):
        return measured(self.client.request("GET", "/large", {}, None).body)

    def events(self, step):
        return {"events": read_events(self.client.lines("/events"), self.acknowledge)}

    def acknowledge(self, number):
        self.client.request("GET", f"/ack-{number}", {}, None)

    def head(self, step):
        return told(self.client.request("HEAD", "/sized", {}, None))

    def no_content(self, step):
        return told(self.client.request("GET", "/none", {}, None))

    def not_modified(self, step):
        return told(self.client.request("GET", "/cached", {"If-None-Match": '"1"'}, None))

    def redirect(self, step):
        return told(self.client.follow("/redirect"))

    def redirect_path(self, step):
        return told(self.client.follow("/redirect-path"))

    def keep_alive(self, step):
        self.client.fresh()
        for number in range(step["requests"]):
            answer = self.client.request("GET", f"/keep-{number}", {}, None)
        return told(answer)

    def denied(self, step):
        answer = self.client.request("GET", "/denied", {}, None)
        return refusal(answer.status, answer.headers.get("content-type"), json.loads(answer.body))


def told(answer):
    return {
        "status": answer.status,
        "length": answer.headers.get("content-length"),
        "bytes": len(answer.body),
        "text": answer.body.decode(),
        "http": answer.http,
    }


def measured(body):
    return {"bytes": len(body), "sha256": hashlib.sha256(body).hexdigest()}


def refusal(status, content_type, problem):
    return {"status": status, "type": content_type, "reason": problem["reason"]}


def piece(number):
    """16 KiB that tell their place."""
    return f"{number:015}\n".encode() * 1024


def read_events(lines, acknowledge):
    """The numbers of the events. The upstream holds each back until the one before was acknowledged."""
    events = []
    for line in lines:
        if line.startswith("data: {"):
            events.append(int(json.loads(line[6:])["choices"][0]["delta"]["content"]))
            acknowledge(events[-1])
    return events


def run(make, plan=Plan):
    """Answers what comes in, until it ends. `make` gets the place and returns the client."""
    client = make(Place(**json.loads(sys.stdin.readline())))
    say({"version": client.version})
    steps = plan(client)
    for line in sys.stdin:
        step = json.loads(line)
        try:
            say(getattr(steps, step["step"])(step))
        except Cannot as cannot:
            say({"cannot": str(cannot)})
        except Failed as failed:
            say({"error": str(failed)})
        except Exception as error:
            traceback.print_exc()
            say({"error": type(error).__name__})


def say(what):
    print(json.dumps(what), flush=True)
