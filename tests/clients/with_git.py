"""git over HTTP: obeys http_proxy in lower case, and HTTPS_PROXY. Each step is a few commands in a folder of its own."""

import hashlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from plan import Failed, piece, run

# Nobody's settings but ours, and nobody asked for a password.
ENVIRONMENT = os.environ | {"GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_TERMINAL_PROMPT": "0"}
AUTHOR = ["-c", "user.name=app", "-c", "user.email=app@example.com"]


class Client:
    def __init__(self, place):
        self.place = place
        said = subprocess.run(["git", "version"], capture_output=True, text=True, check=True)
        self.version = ".".join(said.stdout.split()[2].split(".")[:2])


class GitPlan:
    def __init__(self, client):
        self.client = client

    def clone(self, step):
        with tempfile.TemporaryDirectory() as folder:
            self.fetched("plan.git", folder)
            return measured(folder, "content")

    def push(self, step):
        with tempfile.TemporaryDirectory() as folder:
            self.fetched("plan.git", folder)
            content = b"".join(piece(number) for number in range(step["pieces"]))
            Path(folder, "pushed").write_bytes(content)
            self.git("-C", folder, "add", "pushed")
            self.git("-C", folder, *AUTHOR, "commit", "--quiet", "--message", "a file")
            self.git("-C", folder, "push", "--quiet", "origin", "HEAD")
        with tempfile.TemporaryDirectory() as folder:
            self.fetched("plan.git", folder)
            return measured(folder, "pushed")

    def denied(self, step):
        with tempfile.TemporaryDirectory() as folder:
            try:
                self.fetched("denied", folder)
            except Failed as failed:
                return {"code": str(failed)}

    def fetched(self, repository, folder):
        self.git("clone", "--quiet", f"{self.client.place.base}/{repository}", folder)

    def git(self, *arguments):
        own = [f"http.extraHeader={name}: {value}" for name, value in self.client.place.credentials.items()]
        settings = [word for setting in own for word in ("-c", setting)]
        done = subprocess.run(["git", *settings, *arguments], capture_output=True, text=True, env=ENVIRONMENT)
        if done.returncode != 0:
            print(done.stderr, file=sys.stderr)
            raise Failed(done.stderr.strip().splitlines()[-1].rpartition("': ")[2])


def measured(folder, name):
    content = Path(folder, name).read_bytes()
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


run(Client, GitPlan)
