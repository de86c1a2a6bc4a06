"""What is measured: ours and its peers. Each takes a request, puts the same header on it and passes it on over
connections that are kept and, in most cases, encrypted and verified; with one worker, and no log of requests."""

import contextlib
import http.client
import json
import re
import subprocess
import time

from measure.machine import ROOT, built, command, free_port
from measure.servers import Failed, Server, nginx

TOKEN = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJiZW5jaCJ9.c2lnbmF0dXJlLWhlcmU"


class Proxy(Server):
    """A proxy before one of the origin's ports; `way` is the port's name."""

    # What stands before the path that the origin sees, and what comes back of an origin that says what it was shown.
    base = ""
    shown = f"Bearer {TOKEN}"

    def __init__(self, name, ground, way):
        super().__init__(name, ground.folder, ground.proxy_core, free_port())
        self.ground, self.way = ground, way
        self.upstream_port = ground.origin.ports[way]
        self.tls, self.h2 = way != "plain", way == "h2"

    def url(self, path="/"):
        return f"http://127.0.0.1:{self.port}{self.base}{path}"

    def check(self):
        """That it does the work which is measured."""
        self.ask_origin("--http2-prior-knowledge" if self.h2 else "--http1.1")

    def ask_origin(self, *options):
        words = [command("curl"), "--silent", "--show-error", "--max-time", "30", *options, self.url("/echo")]
        asked = subprocess.run(words, capture_output=True, text=True, check=False)
        if asked.returncode != 0 or asked.stdout != self.shown:
            raise Failed(f"{self.name} does not attach the token: {asked.stdout[:200]} {asked.stderr[:200]}")


class Nginx(Proxy):
    def __init__(self, ground, way):
        super().__init__("nginx", ground, way)

    def command(self):
        verified = f"""
      proxy_ssl_verify on; proxy_ssl_trusted_certificate {self.folder}/ca.pem; proxy_ssl_verify_depth 2;
      proxy_ssl_name localhost; proxy_ssl_server_name on; proxy_ssl_protocols TLSv1.3;"""
        return nginx(
            self,
            f"""
  client_max_body_size 0; proxy_max_temp_file_size 0;
  upstream origin {{
    server 127.0.0.1:{self.upstream_port};
    keepalive 512; keepalive_requests 1000000000; keepalive_timeout 600s;
  }}
  server {{ listen 127.0.0.1:{self.port} backlog=4096{" http2" if self.h2 else ""};
    location / {{
      proxy_pass {"https" if self.tls else "http"}://origin;
      proxy_http_version 1.1; proxy_set_header Host localhost; {self.upgrading()}
      proxy_set_header Authorization "Bearer {TOKEN}";{verified if self.tls else ""}
    }}
  }}""",
        )

    def upgrading(self):
        if self.way == "websocket":
            return "proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection upgrade;"
        return 'proxy_set_header Connection "";'

    def version(self):
        return said([command("nginx"), "-v"], r"nginx/(\S+)")


class Haproxy(Proxy):
    def __init__(self, ground, way):
        super().__init__("haproxy", ground, way)

    def command(self):
        config = self.folder / "haproxy.cfg"
        verified = f"ssl verify required ca-file {self.folder}/ca.pem sni str(localhost) verifyhost localhost"
        tls = f"{verified} ssl-min-ver TLSv1.3" if self.tls else ""
        alpn = "alpn h2" if self.h2 else ""
        config.write_text(
            f"""
global
  nbthread 1
  maxconn 9000
  ssl-server-verify required
defaults
  mode http
  timeout connect 5s
  timeout client 600s
  timeout server 600s
  timeout http-keep-alive 600s
  option http-keep-alive
  http-reuse always
frontend front
  bind 127.0.0.1:{self.port} backlog 4096 {"proto h2" if self.h2 else ""}
  http-request set-header Authorization "Bearer {TOKEN}"
  http-request set-header Host localhost
  default_backend back
backend back
  server origin 127.0.0.1:{self.upstream_port} pool-max-conn 512 {tls} {alpn}
""",
            encoding="utf-8",
        )
        return [command("haproxy"), "-db", "-f", str(config)]

    def version(self):
        return said([command("haproxy"), "-v"], r"version (\S+)")


class Envoy(Proxy):
    """With the filter that is made for this: credential_injector."""

    def __init__(self, ground, way):
        super().__init__("envoy", ground, way)

    def command(self):
        config = self.folder / "envoy.json"
        config.write_text(json.dumps(self.settings()), encoding="utf-8")
        words = ["-c", str(config), "--concurrency", "1", "--log-level", "error", "--disable-hot-restart"]
        return [self.program(), *words]

    def settings(self):
        kind = "type.googleapis.com/envoy.extensions."
        token = {"name": "token", "generic_secret": {"secret": {"inline_string": f"Bearer {TOKEN}"}}}
        injector = {
            "@type": kind + "filters.http.credential_injector.v3.CredentialInjector",
            "overwrite": True,
            "credential": {
                "name": "envoy.http.injected_credentials.generic",
                "typed_config": {
                    "@type": kind + "http.injected_credentials.generic.v3.Generic",
                    "credential": {"name": "token"},
                    "header": "Authorization",
                },
            },
        }
        router = {"@type": kind + "filters.http.router.v3.Router"}
        route = {
            "match": {"prefix": "/"},
            "route": {"cluster": "origin", "timeout": "0s", "host_rewrite_literal": "localhost"},
        }
        connections = {
            "@type": kind + "filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": "bench",
            "codec_type": "AUTO",
            "generate_request_id": False,
            "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
            "http_filters": [
                {"name": "injector", "typed_config": injector},
                {"name": "envoy.filters.http.router", "typed_config": router},
            ],
        }
        if self.way == "websocket":
            connections["upgrade_configs"] = [{"upgrade_type": "websocket"}]
        listener = self.listener("front", self.port, connections)
        return {"static_resources": {"secrets": [token], "listeners": [listener], "clusters": [self.cluster(kind)]}}

    @staticmethod
    def listener(name, port, connections, **secured):
        filters = [{"name": "envoy.filters.network.http_connection_manager", "typed_config": connections}]
        return {"name": name, "address": socket_address(port), "filter_chains": [{"filters": filters, **secured}]}

    def cluster(self, kind):
        protocol = {"http2_protocol_options": {}} if self.h2 else {"http_protocol_options": {}}
        endpoint = {"endpoint": {"address": socket_address(self.upstream_port)}}
        most = {"max_connections": 100000, "max_pending_requests": 100000, "max_requests": 100000}
        cluster = {
            "name": "origin",
            "connect_timeout": "5s",
            "type": "STATIC",
            "load_assignment": {"cluster_name": "origin", "endpoints": [{"lb_endpoints": [endpoint]}]},
            "circuit_breakers": {"thresholds": [most]},
            "typed_extension_protocol_options": {
                "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                    "@type": kind + "upstreams.http.v3.HttpProtocolOptions",
                    "explicit_http_config": protocol,
                }
            },
        }
        if self.tls:
            name = {"san_type": "DNS", "matcher": {"exact": "localhost"}}
            verified = {"trusted_ca": {"filename": f"{self.folder}/ca.pem"}, "match_typed_subject_alt_names": [name]}
            versions = {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"}
            cluster["transport_socket"] = {
                "name": "envoy.transport_sockets.tls",
                "typed_config": {
                    "@type": kind + "transport_sockets.tls.v3.UpstreamTlsContext",
                    "sni": "localhost",
                    "common_tls_context": {"tls_params": versions, "validation_context": verified},
                },
            }
        return cluster

    @staticmethod
    def program():
        found = sorted((ROOT / ".tools/envoy").glob("lib/python3*/site-packages/envoy/_bin/envoy"))
        return built(found[0] if found else ROOT / ".tools/envoy", "scripts/tools.sh bench")

    def version(self):
        return said([self.program(), "--version"], r"/(\d+\.\d+\.\d+)/")


class Pingora(Proxy):
    PROGRAM = ROOT / ".tools/pingora/release/pingora-peer"

    def __init__(self, ground, way):
        super().__init__("pingora", ground, way)

    def command(self):
        program = built(self.PROGRAM, "scripts/tools.sh bench")
        words = [program, f"127.0.0.1:{self.port}", f"127.0.0.1:{self.upstream_port}", f"Bearer {TOKEN}"]
        return words + (["--tls", f"{self.folder}/ca.pem"] if self.tls else []) + (["--h2"] if self.h2 else [])

    def version(self):
        lock = (ROOT / "benches/pingora/Cargo.lock").read_text()
        return re.search(r'name = "pingora"\nversion = "(.*)"', lock).group(1)


class Intercepting(Proxy):
    """One that clients are given as `HTTPS_PROXY`: it ends their TLS, as a host that it finds under this name."""

    HOST = "origin.bench.test"
    # What a load may ask of it in a second, in all and in rounds of new tunnels.
    most_per_second = 15000
    rounds_per_second = 8

    @property
    def authority(self):
        return f"{self.HOST}:{self.upstream_port}"

    def url(self, path="/"):
        return f"https://{self.authority}{path}"

    def among_hosts(self, words):
        """The program where the host is known; everybody else's names stay as they are."""
        hosts = self.folder / "hosts"
        hosts.write_text(f"127.0.0.1 localhost {self.HOST}\n", encoding="utf-8")
        script = f"mount --bind {hosts} /etc/hosts && exec \"$@\""
        return [command("unshare"), "--mount", command("sh"), "-c", script, "sh", *words]

    def check(self):
        protocol = "--http2" if self.h2 else "--http1.1"
        self.ask_origin(protocol, "--insecure", "--proxy", f"http://127.0.0.1:{self.port}")


class EnvoyIntercepting(Intercepting, Envoy):
    """A listener that ends `CONNECT`, and behind it one that ends TLS, with the certificate of the origin."""

    def __init__(self, ground, way):
        Envoy.__init__(self, ground, way)
        self.inner_port = free_port()

    def settings(self):
        kind = "type.googleapis.com/envoy.extensions."
        found = super().settings()
        resources = found["static_resources"]
        inner = resources["listeners"][0]
        connections = inner["filter_chains"][0]["filters"][0]["typed_config"]
        pair = {"certificate_chain": "server.pem", "private_key": "server.key"}
        certificate = {part: {"filename": f"{self.folder}/{name}"} for part, name in pair.items()}
        tls = {"alpn_protocols": ["h2", "http/1.1"], "tls_certificates": [certificate]}
        context = {
            "@type": kind + "transport_sockets.tls.v3.DownstreamTlsContext",
            "common_tls_context": tls,
        }
        secured = {"transport_socket": {"name": "envoy.transport_sockets.tls", "typed_config": context}}
        upgrade = [{"upgrade_type": "CONNECT", "connect_config": {}}]
        route = {"match": {"connect_matcher": {}}, "route": {"cluster": "inner", "upgrade_configs": upgrade}}
        router = [connections["http_filters"][-1]]
        tunnels = {
            **connections,
            "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
            "http_filters": router,
            "upgrade_configs": [{"upgrade_type": "CONNECT"}],
            # As socat asks.
            "http_protocol_options": {"accept_http_10": True},
        }
        resources["listeners"] = [
            self.listener("tunnels", self.port, tunnels),
            self.listener("inner", self.inner_port, connections, **secured),
        ]
        endpoint = {"endpoint": {"address": socket_address(self.inner_port)}}
        endpoints = {"cluster_name": "inner", "endpoints": [{"lb_endpoints": [endpoint]}]}
        resources["clusters"].append({"name": "inner", "type": "STATIC", "load_assignment": endpoints})
        return found


class Mitmproxy(Intercepting):
    most_per_second = 400
    rounds_per_second = 1

    def __init__(self, ground, way):
        super().__init__("mitmproxy", ground, way)

    def command(self):
        program = built(ROOT / ".tools/mitmproxy/bin/mitmdump", "scripts/tools.sh bench")
        options = [
            f"confdir={self.folder}/mitmproxy",
            f"ssl_verify_upstream_trusted_ca={self.folder}/ca.pem",
            f"modify_headers=:~q:Authorization:Bearer {TOKEN}",
        ]
        words = ["--quiet", "--listen-host", "127.0.0.1", "--listen-port", str(self.port)]
        return self.among_hosts([program, *words, *(word for option in options for word in ("--set", option))])

    def version(self):
        program = built(ROOT / ".tools/mitmproxy/bin/mitmdump", "scripts/tools.sh bench")
        return said([program, "--version"], r"Mitmproxy: (\S+)")


class Countersign(Proxy):
    """Everything that is on by default stays on, but the line in the log for each request.

    `entries` are the tokens and routes: one of each unless told. `proxy` are more lines of `[proxy]`, `lines` of each route.
    """

    base = "/bench"

    def __init__(self, ground, way, entries=None, proxy="", lines=""):
        super().__init__("countersign", ground, way)
        self.entries, self.proxy, self.lines = entries, proxy, lines
        self.telemetry = free_port()
        self.config = self.folder / "countersign.toml"
        self.starts = 0

    def environment(self):
        return {"BENCH_TOKEN": TOKEN}

    def command(self):
        # Each start finds an empty state, as a sidecar's does.
        self.starts += 1
        source = 'kind = "env", name = "BENCH_TOKEN"'
        self.write(self.entries or token("bench", source) + self.route("bench"))
        return [str(self.ground.binary), "run", "--config", str(self.config)]

    def write(self, entries):
        """Writes the config, in one step: a proxy that reads it meanwhile sees the old one or the new one."""
        text = f"""
[proxy]
listen = ["127.0.0.1:{self.port}"]
workers = 1
{self.proxy}
[proxy.destinations]
allow = ["127.0.0.0/8"]
[telemetry]
listen = "127.0.0.1:{self.telemetry}"
log = {{ level = "warn", format = "text", access = false }}
[state]
dir = "{self.folder}/state-{id(self)}-{self.starts}"
{entries}"""
        new = self.config.with_suffix(".new")
        new.write_text(text, encoding="utf-8")
        new.rename(self.config)

    def route(self, name, authority=None):
        authority = authority or f"127.0.0.1:{self.upstream_port}"
        tls = 'tls = { ca = "file:ca.pem" }\n' if self.tls else ""
        return f"""[[route]]
name = "{name}"
upstream = "{"https" if self.tls else "http"}://{authority}"
token = "{name}"
allow = ["* /**"]
{self.lines}
{tls}"""

    def ready(self):
        with contextlib.suppress(OSError, http.client.HTTPException):
            return self.ask("/readyz")[0] == 200
        return False

    def samples(self):
        """The metrics of now, by name and labels, without the prefix."""
        lines = [line for line in self.ask("/metrics")[1].splitlines() if line.startswith("countersign_")]
        return {
            name.removeprefix("countersign_"): float(value) for name, value in (line.rsplit(" ", 1) for line in lines)
        }

    def metric(self, name, **labels):
        """The sum of the samples of this name that have these labels."""
        wanted = [f'{label}="{value}"' for label, value in labels.items()]
        found = {sample: value for sample, value in self.samples().items() if sample.partition("{")[0] == name}
        return sum(value for sample, value in found.items() if all(label in sample for label in wanted))

    def ask(self, path):
        connection = http.client.HTTPConnection("127.0.0.1", self.telemetry, timeout=10)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def version(self):
        return said([str(self.ground.binary), "version"], r"countersign (\S+)")


class CountersignIntercepting(Intercepting, Countersign):
    def __init__(self, ground, way):
        Countersign.__init__(self, ground, way, lines="intercept = true")
        source = 'kind = "env", name = "BENCH_TOKEN"'
        self.entries = token("bench", source, host=self.HOST) + self.route("bench", self.authority)

    def command(self):
        return self.among_hosts(Countersign.command(self))


def token(name, source, rotation="", host="127.0.0.1"):
    expires = time.strftime("%Y-%m-%d", time.gmtime(time.time() + 30 * 86400))
    return f"""[[token]]
name = "{name}"
owner = "team-bench@example.com"
reason = "to measure"
scopes = ["bench"]
expires = "{expires}"
hosts = ["{host}"]
source = {{ {source} }}
{rotation}"""


def signed(ground, subject, lifetime):
    """A source that signs its tokens itself."""
    key = ground.folder / "signer.pem"
    if not key.exists():
        curve = ["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"]
        subprocess.run([command("openssl"), "genpkey", *curve, "-out", str(key)], capture_output=True, check=True)
    claims = f'issuer = "i", subject = "{subject}", audience = "a", lifetime = "{lifetime}"'
    return f'kind = "signed_jwt", key = "file:{key.name}", algorithm = "ES256", {claims}'


# By name.
PROXIES = {"nginx": Nginx, "haproxy": Haproxy, "envoy": Envoy, "pingora": Pingora, "countersign": Countersign}
INTERCEPTING = {"mitmproxy": Mitmproxy, "envoy": EnvoyIntercepting, "countersign": CountersignIntercepting}


def socket_address(port):
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def said(words, pattern):
    """What a program says of itself."""
    printed = subprocess.run(words, capture_output=True, text=True, check=True)
    found = re.search(pattern, printed.stdout + printed.stderr)
    return found.group(1) if found else "unknown"
