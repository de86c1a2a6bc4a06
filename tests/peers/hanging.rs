//! A disk that does not answer, under the trail and the sealed state: what takes something away is done at once all the same,
//! what lets something in is refused, and live tokens go on.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use tokio::time::Instant;

use crate::support::caddy::Caddy;
use crate::support::issuer::Issuer;
use crate::support::operators::{as_approver, operators};
use crate::support::process::Process;
use crate::support::proxy::{Proxy, ROUTE, Settings, in_a_month, route};
use crate::support::{http, in_turn, tool, wait_until};

/// A command that waits for a disk gives up long before, in one second for each thing that is to be kept.
const SOON: Duration = Duration::from_secs(10);

#[test]
fn a_disk_that_hangs_keeps_nobody_from_taking_away_and_lets_nothing_in() {
    in_turn(async {
        // An upstream has one token.
        let (issuer, caddy) = (Issuer::start().await, Caddy::start().await);
        let others = [("other", Caddy::start().await), ("third", Caddy::start().await)];
        let usual = Settings::between(&issuer, caddy.address, &caddy.certificates);
        let more: String = others.iter().map(|(name, caddy)| other(&issuer, name, caddy)).collect();
        let settings = Settings { proxy_lines: format!("{}\n{more}", operators()), ..usual };
        let mut proxy = Proxy::start(&settings).await;
        let approver = as_approver(&proxy);
        let approver: Vec<&str> = approver.iter().map(String::as_str).collect();
        for name in [ROUTE, "other", "third"] {
            passes(&proxy, name).await;
        }
        let submit = |allow: &str| {
            let asks = ["requests", "submit", "third", "--for", "30m", "--allow", allow, "--reason", "more", "--json"];
            let (code, printed) = proxy.run(&asks);
            assert_eq!(code, Some(0), "{printed}");
            let request: serde_json::Value = serde_json::from_str(&printed).expect("JSON");
            request["id"].as_str().expect("an id").to_owned()
        };
        let (wanted, unwanted) = (submit("POST /wanted"), submit("POST /unwanted"));

        let hanging = Hanging::begin(&proxy).await;
        let within = |arguments: &[&str]| {
            let began = Instant::now();
            let (code, printed) = proxy.run(arguments);
            assert!(began.elapsed() < SOON, "{arguments:?} took {:?}", began.elapsed());
            (code, printed)
        };
        for name in [ROUTE, "other"] {
            let (code, printed) = within(&["tokens", "quarantine", name, "--reason", "odd use"]);
            assert!(code == Some(1) && printed.contains("the disk does not answer"), "{code:?}: {printed}");
            assert_eq!(reason(&proxy, name).await.as_deref(), Some("token_quarantined"));
        }
        let (code, printed) = within(&[&["requests", "approve", &wanted], &approver[..]].concat());
        assert!(code == Some(1) && printed.contains("audit_unavailable"), "{code:?}: {printed}");
        let (code, printed) = within(&[&["requests", "deny", &unwanted], &approver[..]].concat());
        assert!(code == Some(0) && printed.contains("denied by approver"), "{code:?}: {printed}");
        let (code, printed) = within(&[&["tokens", "release", "other"], &approver[..]].concat());
        assert!(code == Some(1) && printed.contains("audit_unavailable"), "{code:?}: {printed}");
        passes(&proxy, "third").await;
        assert!(proxy.metrics().await.contains("countersign_audit_healthy 0"));

        hanging.end();
        wait_until("the token is let in", Duration::from_secs(30), async || {
            let (code, _) = proxy.run(&[&["tokens", "release", ROUTE], &approver[..]].concat());
            (code == Some(0)).then_some(())
        })
        .await;
        passes(&proxy, ROUTE).await;
        assert_eq!(reason(&proxy, "other").await.as_deref(), Some("token_quarantined"));
        proxy.restart().await;
        assert_eq!(reason(&proxy, "other").await.as_deref(), Some("token_quarantined"), "the disk has had it since");
        passes(&proxy, ROUTE).await;
        let (code, said) = proxy.run(&["audit", "verify"]);
        assert!(code == Some(0) && said.contains(": ok, "), "{said}");
    });
}

/// A token of its own with its route.
fn other(issuer: &Issuer, name: &str, caddy: &Caddy) -> String {
    let address = caddy.address;
    let token = format!(
        "[[token]]\nname = \"{name}\"\nowner = \"team-peers@example.com\"\nreason = \"another one\"\n\
         scopes = [\"api:read\"]\nexpires = \"{}\"\nhosts = [\"{}\"]\nsource = {{ {} }}\n",
        in_a_month(),
        address.ip(),
        issuer.source()
    );
    let route = route(name, &address.to_string(), &caddy.certificates, "allow = [\"GET /**\"]");
    token + &route.replace(&format!("token = \"{ROUTE}\""), &format!("token = \"{name}\""))
}

async fn passes(proxy: &Proxy, name: &str) {
    wait_until("a request passes", Duration::from_secs(20), async || {
        http::get(proxy.address, &format!("/{name}/x")).await.filter(|answer| answer.status == 200)
    })
    .await;
}

/// Why a request did not pass.
async fn reason(proxy: &Proxy, name: &str) -> Option<String> {
    http::get(proxy.address, &format!("/{name}/x")).await.expect("an answer").reason()
}

/// As long as this lives, nothing that the proxy writes gets to the disk: strace holds it up.
struct Hanging(Process);

impl Hanging {
    async fn begin(proxy: &Proxy) -> Self {
        let mut command = Command::new(tool("strace"));
        let holds_up = "inject=fsync,fdatasync,sync_file_range:delay_enter=600000000";
        command.args(["-f", "-e", "trace=fsync,fdatasync,sync_file_range", "-e", holds_up, "-p"]);
        command.arg(proxy.pid().to_string());
        let tracer = Process::start("strace", &command, Path::new(&proxy.state()));
        wait_until("strace is there", Duration::from_secs(10), async || {
            tracer.output().contains("attached").then_some(())
        })
        .await;
        Self(tracer)
    }

    /// It lets go, and what it held up goes on.
    fn end(self) {
        drop(self.0);
    }
}
