//! Apps of other machines: curl, with certificates that a vault's authority has signed for SPIFFE IDs.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::caddy::Caddy;
use crate::support::issuer::Issuer;
use crate::support::openbao::OpenBao;
use crate::support::proxy::{Proxy, Settings};
use crate::support::{free_port, in_turn, tool, wait_until};

const BILLING: &str = "spiffe://peers.test/ns/prod/sa/billing";

const SOON: Duration = Duration::from_secs(30);

/// What curl came to: how it ended, the answer's status, the protocol, and what it printed.
struct Ran {
    code: Option<i32>,
    status: String,
    protocol: String,
    printed: String,
}

/// Two authorities in a vault: `apps` signs for apps, `servers` for us.
struct Authorities {
    vault: OpenBao,
}

impl Authorities {
    async fn start() -> Self {
        let vault = OpenBao::start().await;
        for (mount, role) in [
            ("apps", json!({ "allowed_uri_sans": "spiffe://peers.test/*", "server_flag": false })),
            ("servers", json!({ "client_flag": false })),
        ] {
            vault
                .write(&format!("sys/mounts/{mount}"), &json!({ "type": "pki", "config": { "max_lease_ttl": "48h" } }));
            let root =
                json!({ "common_name": format!("the {mount} of the peers test"), "key_type": "ec", "ttl": "24h" });
            let made = vault.write(&format!("{mount}/root/generate/internal"), &root);
            write(&vault.folder.path().join(format!("{mount}.pem")), &made["data"]["certificate"]);
            let mut all =
                json!({ "allow_any_name": true, "enforce_hostnames": false, "require_cn": false, "key_type": "ec" });
            all.as_object_mut().expect("an object").extend(role.as_object().expect("an object").clone());
            vault.write(&format!("{mount}/roles/all"), &all);
        }
        Self { vault }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.vault.folder.path().join(name)
    }

    /// A certificate and its key, in `NAME.pem` and `NAME.key`.
    fn issue(&self, mount: &str, name: &str, what: &Value) {
        let issued = self.vault.write(&format!("{mount}/issue/all"), what);
        write(&self.path(&format!("{name}.key")), &issued["data"]["private_key"]);
        write(&self.path(&format!("{name}.pem")), &issued["data"]["certificate"]);
    }

    fn of_app(&self, name: &str, uris: &str, ttl: &str) {
        self.issue("apps", name, &json!({ "uri_sans": uris, "ttl": ttl }));
    }

    fn of_server(&self) {
        self.issue("servers", "proxy", &json!({ "ip_sans": "127.0.0.1", "ttl": "1h" }));
    }

    /// `GET` with what this app has, over TLS to the proxy.
    fn curl(&self, app: Option<&str>, url: &str, more: &[&str]) -> Ran {
        let mut command = Command::new(tool("curl"));
        command.args(["--silent", "--show-error", "--max-time", "20", "--write-out", "\n%{http_code} %{http_version}"]);
        command.arg("--cacert").arg(self.path("servers.pem")).args(more).arg(url);
        if let Some(app) = app {
            command.arg("--cert").arg(self.path(&format!("{app}.pem")));
            command.arg("--key").arg(self.path(&format!("{app}.key")));
        }
        let ran = command.output().expect("curl runs");
        let text = String::from_utf8_lossy(&ran.stdout).into_owned();
        let (status, protocol) = text.lines().last().and_then(|line| line.split_once(' ')).expect("a status");
        let (status, protocol) = (status.to_owned(), protocol.to_owned());
        let printed = format!("{text}\n{}", String::from_utf8_lossy(&ran.stderr));
        Ran { code: ran.status.code(), status, protocol, printed }
    }
}

fn write(path: &Path, text: &Value) {
    std::fs::write(path, text.as_str().expect("a text")).expect("written");
}

#[test]
fn an_app_of_another_machine_is_known_by_the_id_that_its_authority_gave_it() {
    in_turn(async {
        let (issuer, caddy) = (Issuer::start().await, Caddy::start().await);
        let authorities = Authorities::start().await;
        authorities.of_server();
        for (app, uris) in [
            ("billing", BILLING),
            ("reports", "spiffe://peers.test/ns/prod/sa/reports"),
            ("both", &format!("{BILLING},spiffe://peers.test/ns/prod/sa/other")),
        ] {
            authorities.of_app(app, uris, "1h");
        }
        authorities.issue("servers", "stranger", &json!({ "ttl": "1h", "alt_names": "x.test" }));

        let port = free_port();
        let file = |name: &str| authorities.path(name).display().to_string();
        let tls = format!(
            r#"tls = {{ cert = "file:{}", key = "file:{}", client_ca = "file:{}" }}"#,
            file("proxy.pem"),
            file("proxy.key"),
            file("apps.pem")
        );
        let proxy_lines = format!("{tls}\n[[client]]\nname = \"billing\"\nspiffe = \"{BILLING}\"\n");
        let usual = Settings::between(&issuer, caddy.address, &caddy.certificates);
        // Any address: what is open to other machines.
        let listeners = vec![format!("tls:0.0.0.0:{port}")];
        let proxy = Proxy::start(&Settings { proxy_lines, listeners, ..usual }).await;
        let base = format!("https://127.0.0.1:{port}/api");

        let known = authorities.curl(Some("billing"), &format!("{base}/known"), &[]);
        assert_eq!((known.status.as_str(), known.protocol.as_str()), ("200", "2"), "{}", known.printed);
        let known = authorities.curl(Some("billing"), &format!("{base}/known"), &["--http1.1"]);
        assert_eq!((known.status.as_str(), known.protocol.as_str()), ("200", "1.1"), "{}", known.printed);
        let (own, roots) = (format!("https://127.0.0.1:{port}"), file("servers.pem"));
        let (certificate, key) = (file("billing.pem"), file("billing.key"));
        let as_proxy = ["--proxy", &own, "--noproxy", "", "--proxy-cacert", &roots];
        let shown = ["--proxy-cert", &certificate, "--proxy-key", &key];
        let url = format!("http://{}/known", caddy.address);
        let known = authorities.curl(None, &url, &[&as_proxy[..], &shown].concat());
        assert_eq!(known.status, "200", "as a proxy: {}", known.printed);

        for app in ["reports", "both"] {
            let unknown = authorities.curl(Some(app), &format!("{base}/unknown"), &[]);
            assert_eq!(unknown.status, "403", "{app}: {}", unknown.printed);
            assert!(unknown.printed.contains("client_unknown"), "{app}: {}", unknown.printed);
        }
        for app in [None, Some("stranger")] {
            let refused = authorities.curl(app, &format!("{base}/refused"), &[]);
            assert_eq!(refused.status, "000", "{app:?}: {}", refused.printed);
            assert_ne!(refused.code, Some(0), "{app:?}");
        }
        let metrics = proxy.metrics().await;
        for why in ["no_certificate", "certificate"] {
            let line = format!("countersign_tls_handshakes_failed_total{{why=\"{why}\"}} 1");
            assert!(metrics.contains(&line), "{line} is not in {metrics}");
        }

        // A short life ends.
        authorities.of_app("brief", BILLING, "3s");
        assert_eq!(authorities.curl(Some("brief"), &format!("{base}/known"), &[]).status, "200");
        wait_until("it has expired", SOON, async || {
            let late = authorities.curl(Some("brief"), &format!("{base}/late"), &[]);
            (late.status == "000").then_some(())
        })
        .await;

        // The vault gives us another certificate.
        let before = std::fs::read(authorities.path("proxy.pem")).expect("a certificate");
        authorities.of_server();
        assert_ne!(std::fs::read(authorities.path("proxy.pem")).expect("a certificate"), before);
        let (code, _) = wait_until("it is taken", SOON, async || {
            let (code, records) = proxy.run(&["audit", "show", "--event", "listener_certificates_replaced"]);
            records.contains("listener_certificates_replaced").then_some((code, records))
        })
        .await;
        assert_eq!(code, Some(0));
        assert_eq!(authorities.curl(Some("billing"), &format!("{base}/known"), &[]).status, "200");

        let finding = caddy.trail().judge("/known", &issuer.keys().await);
        assert_eq!(finding.requests, 5);
        finding.assert_every_request_carried_a_live_token_once();
        for prefix in ["/unknown", "/refused"] {
            assert_eq!(caddy.trail().judge(prefix, &issuer.keys().await).requests, 0, "{prefix}");
        }
        said_by_commands(&proxy, &base, port);
    });
}

/// What `explain` and `doctor` say of it.
fn said_by_commands(proxy: &Proxy, base: &str, port: u16) {
    let (code, said) = proxy.run(&["explain", "GET", &format!("{base}/x")]);
    assert_eq!(code, Some(0), "{said}");
    for line in ["a base URL", "client      billing", "route       api"] {
        assert!(said.contains(line), "{line} is not in {said}");
    }
    let (_, said) = proxy.run(&["doctor"]);
    for line in [
        format!("ok: 127.0.0.1:{port} answers nobody in the clear"),
        "ok: the certificate, the key and the CA of `tls` in [proxy] can be used".to_owned(),
        format!("ok: client billing is known by its certificate: {BILLING}"),
    ] {
        assert!(said.contains(&line), "{line} is not in {said}");
    }
}
