"""curl, with the arguments that choose its version of HTTP: obeys http_proxy, in lower case only, and HTTPS_PROXY."""

import json
import subprocess
import sys

from plan import Answer, Cannot, Failed, Plan, run

PROTOCOL = sys.argv[1:]


class CurlPlan(Plan):
    def keep_alive(self, step):
        """Several addresses of one call: a connection lives as long as its process."""
        urls = [f"{self.client.place.base}/keep-{number}" for number in range(step["requests"])]
        done = subprocess.run(self.client.command("--fail", *urls), capture_output=True)
        check(done.returncode, done.stderr)
        return {"status": 200, "text": done.stdout.decode()}


class Client:
    def __init__(self, place):
        self.place = place
        said = subprocess.run(["curl", "--version"], capture_output=True, text=True, check=True)
        self.version = ".".join(said.stdout.split()[1].split(".")[:2])

    def fresh(self):
        """Every call is a process of its own."""

    def command(self, *arguments):
        return ["curl", "--silent", "--show-error", *PROTOCOL, *fields(self.place.credentials), *arguments]

    def request(self, method, path, headers, body, follow=False):
        # The head and the body apart, so that each arrives as it was.
        told = ["--write-out", "%{stderr}%{http_code} %{http_version} %{header_json}", "--output", "-"]
        if method == "HEAD":
            told[-1] = "/dev/null"
        how = ["--head"] if method == "HEAD" else ["--request", method]
        if body is not None:
            # curl reads what it does not know the length of from standard input, as it comes.
            how = ["--upload-file", "-", *how] if not isinstance(body, bytes) else ["--data-binary", "@-", *how]
        if follow:
            how = ["--location"]
        command = self.command(*fields(headers), *how, *told, self.place.base + path)
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        sent = b"" if body is None else body if isinstance(body, bytes) else b"".join(body)
        output, said = process.communicate(sent)
        check(process.returncode, said)
        status, spoken, head = said.decode().split(" ", 2)
        return Answer(int(status), {name: values[-1] for name, values in json.loads(head).items()}, output, spoken)

    def follow(self, path):
        return self.request("GET", path, {}, None, follow=True)

    def lines(self, path):
        process = subprocess.Popen(self.command("--no-buffer", self.place.base + path), stdout=subprocess.PIPE)
        for line in process.stdout:
            yield line.decode().rstrip("\n")
        process.wait()


def check(code, said):
    if code == 0:
        return
    print(said.decode(), file=sys.stderr)
    if b"not supported by" in said or b"HTTP 1.0" in said:
        raise Cannot("HTTP/1.0 has no body of unknown length")
    # Node.js's own server sees the same of curl 7.88.
    if code == 16:
        raise Cannot("curl 7.88 fails (16) at a connection's second request of HTTP/2 without TLS, with any server")
    raise Failed(f"exit code {code}")


def fields(headers):
    return [word for name, value in headers.items() for word in ("--header", f"{name}: {value}")]


run(Client, CurlPlan)
