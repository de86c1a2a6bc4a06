"""A cluster, played by kmock: what it has are its emulator's objects; the subresource `token` of a service account is answered
here, as TokenRequest (authentication.k8s.io/v1) has it.

    kubernetes.py PORT LIFE OWN

OWN is the file with the token that a pod is given, by which TokenRequest may be called for the account `reader` in `billing`. A token
lives LIFE seconds, whatever is asked for, as a cluster may have it. It reads secrets of that namespace, if it is for the audience
of the API server, and not when its time is over. What was asked for is at /peers/seen.
"""

import asyncio
import contextlib
import datetime
import secrets
import sys

import kmock
from kmock import ReactionMismatchError, Response

AUDIENCE = "https://kubernetes.default.svc"
LEAST = 600


def status(code, reason):
    return Response(status=code, payload={"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "code": code})


class Cluster:
    def __init__(self, life, own):
        self.life, self.own = life, own
        self.tokens, self.asked = {}, []

    def bearer(self, request):
        return request.headers.get("Authorization", "").removeprefix("Bearer ")

    def issue(self, request):
        if self.bearer(request) != self.own:
            return status(401, "Unauthorized")
        if (request.namespace, request.name) != ("billing", "reader"):
            return status(403, "Forbidden")
        wish = request.data
        if (wish.get("apiVersion"), wish.get("kind")) != ("authentication.k8s.io/v1", "TokenRequest"):
            return status(400, "BadRequest")
        spec = wish["spec"]
        if spec.get("expirationSeconds", 3600) < LEAST:
            return status(422, "Invalid")
        self.asked.append(spec)
        ends = datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0) + datetime.timedelta(seconds=self.life)
        token = secrets.token_urlsafe(32)
        self.tokens[token] = (spec.get("audiences") or [AUDIENCE], ends)
        given = {"token": token, "expirationTimestamp": ends.isoformat().replace("+00:00", "Z")}
        return Response(status=201, payload={"kind": "TokenRequest", "apiVersion": "authentication.k8s.io/v1", "spec": spec, "status": given})

    def read(self, request):
        audiences, ends = self.tokens.get(self.bearer(request), ([], None))
        if AUDIENCE not in audiences or ends <= datetime.datetime.now(datetime.timezone.utc):
            return status(401, "Unauthorized")
        # For the emulator to answer.
        raise ReactionMismatchError


async def main(port, life, own):
    with open(own, encoding="ascii") as file:
        cluster = Cluster(int(life), file.read().strip())
    emulator = kmock.KubernetesEmulator()
    emulator.objects["v1/secrets", "billing", "bill"] = {"metadata": {"name": "bill"}, "data": {"a": "Yg=="}}
    emulator["/peers/seen"] << (lambda request: {"asked": cluster.asked, "issued": len(cluster.tokens)})
    emulator["post", kmock.subresource("token")] << cluster.issue
    emulator["get", kmock.resource("v1/secrets")] << cluster.read
    async with contextlib.AsyncExitStack() as servers:
        # Each route of a proxy has an authority of its own.
        for own in range(1, 4):
            await servers.enter_async_context(kmock.Server(emulator, host=f"127.0.0.{own}", port=int(port)))
        await asyncio.Event().wait()


asyncio.run(main(*sys.argv[1:]))
