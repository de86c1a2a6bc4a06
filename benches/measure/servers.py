"""A process that is started on a core, waited for and stopped; and the ground that all of them stand on: a folder, a
certificate authority, an origin."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from measure.machine import command, cores, cpu_microseconds, free_port, pinned, resident_megabytes

WEBSOCKET = Path(__file__).with_name("websocket.py")
ANSWER = '{"object":"ok","id":"0123456789abcdef","data":[1,2,3,4]}'


class Server:
    """A process on one core, from `with` to the end of it."""

    def __init__(self, name, folder, core, port):
        self.name, self.folder, self.core, self.port = name, folder, core, port
        self.process = None

    def command(self):
        raise NotImplementedError

    def environment(self):
        return {}

    def start(self):
        """Starts the process, and does not wait for it to be ready."""
        words = pinned(self.core, self.command())
        # After its files have been written: a start is measured from here.
        with open(self.folder / f"{self.name}.out", "w", encoding="utf-8") as output:
            self.process = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env={**os.environ, **self.environment()}
            )

    def __enter__(self):
        self.start()
        deadline = time.monotonic() + 60
        while not self.ready():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise Failed(f"{self.name} did not start:\n{self.output()[-2000:]}")
            time.sleep(0.02)
        return self

    def __exit__(self, *_):
        self.stop()

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def output(self):
        return (self.folder / f"{self.name}.out").read_text(errors="replace")

    def ready(self):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
            return True
        return False

    @property
    def pid(self):
        return self.process.pid

    def cpu(self):
        return cpu_microseconds(self.pid)

    def resident(self):
        return resident_megabytes(self.pid)


class Failed(Exception):
    """What is measured does not do what it should: the measurement means nothing."""


class Origin(Server):
    """nginx, with a port for each way of being spoken to:

    plain, tls   HTTP/1.1; connections are kept
    h2           HTTP/2 over TLS
    resumed      TLS; a connection for each request, sessions may be resumed
    full         the same, and each handshake is a full one
    """

    PORTS = ["plain", "tls", "h2", "resumed", "full"]

    def __init__(self, folder, core):
        super().__init__("origin", folder, core, free_port())
        self.ports = {port: free_port() for port in self.PORTS}
        self.port = self.ports["tls"]

    def command(self):
        options = {
            "plain": ("", ""),
            "tls": ("ssl", ""),
            "h2": ("ssl http2", "http2_max_concurrent_streams 512;"),
            "resumed": ("ssl", "keepalive_timeout 0;"),
            "full": ("ssl", "keepalive_timeout 0; ssl_session_tickets off; ssl_session_cache off;"),
        }
        servers = [
            f"""
  server {{ listen 127.0.0.1:{self.ports[name]} {listen} backlog=4096; {more}
    root {self.folder}/www;
    location = / {{ return 200 '{ANSWER}\\n'; }}
    location = /echo {{ return 200 "$http_authorization"; }}
    # What a unary call of gRPC looks like from outside: a message that is posted, a message, trailers.
    location = /grpc {{ default_type application/grpc; add_trailer grpc-status 0 always; error_page 405 =200 $uri; }}
    # Passed on, which it is when the whole body has come.
    location = /upload {{ proxy_pass http://127.0.0.1:{self.ports["plain"]}/; }}
  }}"""
            for name, (listen, more) in options.items()
        ]
        www = self.folder / "www"
        www.mkdir(exist_ok=True)
        for name, size in {"64k": 1 << 16, "1m": 1 << 20, "10m": 10 << 20}.items():
            (www / name).write_bytes(os.urandom(size))
        (www / "grpc").write_bytes(b"\0\0\0\0\x05hello")
        return nginx(
            self,
            f"""
  default_type application/json; sendfile on;
  open_file_cache max=10 inactive=600s; open_file_cache_valid 600s;
  ssl_certificate {self.folder}/server.pem; ssl_certificate_key {self.folder}/server.key;
  ssl_protocols TLSv1.3;
  {"".join(servers)}""",
        )


class Echo(Server):
    """An origin of WebSockets, over TLS."""

    def __init__(self, ground):
        super().__init__("echo", ground.folder, ground.load_core, free_port())

    def command(self):
        own = [f"{self.folder}/server.pem", f"{self.folder}/server.key"]
        return [sys.executable, str(WEBSOCKET), "origin", str(self.port), *own]


class Tunnels(Server):
    """Opens a tunnel through a proxy for each connection, as an app does that is given it as `HTTPS_PROXY`: load generators do
    not."""

    def __init__(self, proxy):
        super().__init__("tunnels", proxy.folder, proxy.ground.load_core, free_port())
        self.proxy = proxy

    def command(self):
        listen = f"TCP-LISTEN:{self.port},bind=127.0.0.1,fork,reuseaddr,nodelay,backlog=512"
        host, port = self.proxy.authority.split(":")
        return [command("socat"), listen, f"PROXY:127.0.0.1:{host}:{port},proxyport={self.proxy.port},nodelay"]


class ManyOrigins(Server):
    """nginx under 2,500 authorities, over TLS: each of 100 ports at each of 25 addresses. Four make 10,000, which is
    too many sockets for one process."""

    PORTS, ADDRESSES, PARTS = 100, 25, 4

    def __init__(self, folder, core, part, first_port):
        super().__init__(f"origin-{part}", folder, core, first_port)
        self.part = part

    def command(self):
        ports = f"{self.port}-{self.port + self.PORTS - 1}"
        addresses = [f"127.0.0.{self.part * self.ADDRESSES + number + 1}" for number in range(self.ADDRESSES)]
        listen = "".join(f"    listen {address}:{ports} ssl;\n" for address in addresses)
        return nginx(
            self,
            f"""
  ssl_certificate {self.folder}/many.pem; ssl_certificate_key {self.folder}/many.key;
  ssl_protocols TLSv1.3;
  server {{
{listen}    location = / {{ return 200 '{ANSWER}\\n'; }}
  }}""",
        )

    def ready(self):
        with (
            contextlib.suppress(OSError),
            socket.create_connection((f"127.0.0.{self.part * self.ADDRESSES + 1}", self.port), 1),
        ):
            return True
        return False

    @classmethod
    def authority(cls, number, first_port):
        """One of many."""
        addresses = cls.ADDRESSES * cls.PARTS
        return f"127.0.0.{number % addresses + 1}:{first_port + number // addresses}"


class Ground:
    """What every measurement stands on."""

    def __init__(self, binary):
        self.binary = binary
        self.proxy_core, self.load_core = cores()

    def __enter__(self):
        with contextlib.ExitStack() as stack:
            self.folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
            # The origin's worker may run as another user.
            self.folder.chmod(0o755)
            make_certificates(self.folder)
            self.origin = stack.enter_context(Origin(self.folder, self.load_core))
            self.stack = stack.pop_all()
        return self

    def __exit__(self, *error):
        return self.stack.__exit__(*error)


def nginx(server, http_section):
    """The command line of an nginx with this section, one worker, and no log of requests."""
    config = server.folder / f"{server.name}.conf"
    temporary = "".join(
        f"{kind}_temp_path {server.folder}/{server.name}.{kind}; "
        for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
    )
    config.write_text(
        f"""
daemon off; worker_processes 1; worker_rlimit_nofile 20000;
pid {server.folder}/{server.name}.pid; error_log stderr error;
events {{ worker_connections 16000; multi_accept on; }}
http {{
  access_log off; tcp_nodelay on; keepalive_requests 1000000000; keepalive_timeout 600s;
  {temporary}
{http_section}
}}
""",
        encoding="utf-8",
    )
    return [command("nginx"), "-e", "stderr", "-p", str(server.folder), "-c", str(config)]


def make_certificates(folder):
    """A certificate authority, and certificates of the origin: for one name, and for many."""

    def openssl(*words):
        subprocess.run([command("openssl"), *words], cwd=folder, capture_output=True, check=True)

    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    openssl(
        "req", "-x509", *curve, "-keyout", "ca.key", "-out", "ca.pem", "-days", "30", "-subj", "/CN=bench authority"
    )
    many = ",".join(f"IP:127.0.0.{number + 1}" for number in range(ManyOrigins.ADDRESSES * ManyOrigins.PARTS))
    for name, names in {"server": "DNS:localhost,DNS:origin.bench.test,IP:127.0.0.1", "many": many}.items():
        openssl("req", *curve, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", "/CN=localhost")
        (folder / f"{name}.ext").write_text(f"subjectAltName={names}\nbasicConstraints=critical,CA:FALSE\n")
        openssl(
            "x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial",
            "-out", f"{name}.pem", "-days", "30", "-extfile", f"{name}.ext",
        )  # fmt: skip


def say(text):
    print(text, file=sys.stderr, flush=True)
