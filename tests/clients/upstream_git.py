"""Git's own server over TLS: upstream_git.py CERTIFICATE KEY. Its first line is its port; then a line of JSON for each request.

A repository is made when it is first asked for.
"""

import json
import os
import ssl
import subprocess
import sys
import tempfile
import threading
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

PIECES = 64

lock = threading.Lock()


def main():
    with tempfile.TemporaryDirectory() as folder:
        Requests.folder = Path(folder)
        server = ThreadingHTTPServer(("127.0.0.1", 0), Requests)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*sys.argv[1:])
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        say(server.server_address[1])
        server.serve_forever()


class Requests(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        target = urlsplit(self.path)
        _, run, rest = target.path.split("/", 2)
        say({"run": int(run.removeprefix("r")), "target": f"/{rest}", "headers": [[n.lower(), v] for n, v in self.headers.items()]})
        body = self.body()
        with lock:
            repository(self.folder / run / "plan.git")
        self.answer(target, body)

    do_POST = do_GET

    def body(self):
        if self.headers.get("transfer-encoding") == "chunked":
            return b"".join(iter(self.chunk, b""))
        return self.rfile.read(int(self.headers.get("content-length", "0")))

    def chunk(self):
        content = self.rfile.read(int(self.rfile.readline(), 16))
        self.rfile.readline()
        return content

    def answer(self, target, body):
        """As its CGI program does (RFC 3875)."""
        if self.headers.get("content-encoding") == "gzip":
            body = zlib.decompress(body, wbits=31)
        variables = {
            "GIT_PROJECT_ROOT": str(self.folder),
            "GIT_HTTP_EXPORT_ALL": "1",
            "GIT_PROTOCOL": self.headers.get("git-protocol", ""),
            "PATH_INFO": target.path,
            "QUERY_STRING": target.query,
            "REQUEST_METHOD": self.command,
            "CONTENT_TYPE": self.headers.get("content-type", ""),
            "CONTENT_LENGTH": str(len(body)),
            "REMOTE_USER": "app",
        }
        done = subprocess.run(["git", "http-backend"], input=body, capture_output=True, env=os.environ | variables)
        head, _, content = done.stdout.partition(b"\r\n\r\n")
        fields = dict(line.split(": ", 1) for line in head.decode().split("\r\n"))
        self.send_response(int(fields.pop("Status", "200").split()[0]))
        for name, value in fields.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        """Standard output is for what was asked."""


def repository(path):
    """One commit, with a file that tells its places."""
    if path.exists():
        return
    path.mkdir(parents=True)
    git(path, "init", "--quiet", "--bare", "--initial-branch=main")
    content = b"".join(f"{number:015}\n".encode() * 1024 for number in range(PIECES))
    blob = git(path, "hash-object", "-w", "--stdin", given=content)
    tree = git(path, "mktree", given=f"100644 blob {blob}\tcontent\n".encode())
    author = ("-c", "user.name=upstream", "-c", "user.email=upstream@example.com")
    commit = git(path, *author, "commit-tree", tree, "-m", "a file")
    git(path, "update-ref", "refs/heads/main", commit)


def git(path, *words, given=b""):
    done = subprocess.run(["git", "-C", path, *words], input=given, capture_output=True, check=True)
    return done.stdout.decode().strip()


def say(what):
    with lock:
        print(json.dumps(what), flush=True)


main()
