//! Somebody who signs in at oidc-provider, by a code and on its own pages, and the proxy that goes on from there.

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::support::caddy::Caddy;
use crate::support::issuer::{CLIENT_SECRET, Issuer};
use crate::support::proxy::{Proxy, Settings, binary};
use crate::support::{in_turn, tool};

#[test]
fn somebody_types_a_code_and_the_proxy_refreshes_from_there() {
    in_turn(async {
        let (issuer, folder) = (Issuer::start().await, tempfile::tempdir().expect("temporary folder"));
        let file = folder.path().join("signed-in");
        let source = format!(
            r#"kind = "refresh_token", issuer = "http://{}", client_id = "device", client_secret = "env:PEERS_CLIENT_SECRET", sign_in_scope = ["openid", "offline_access"], refresh_token = "file:{}", single_instance = true"#,
            issuer.address,
            file.display(),
        );
        sign_in(folder.path(), &source);
        assert!(file.is_file());

        let caddy = Caddy::start().await;
        let usual = Settings::between(&issuer, caddy.address, &caddy.certificates);
        let proxy = Proxy::start(&Settings { source, ..usual }).await;
        assert_eq!(proxy.get("/signed-in").await.expect("an answer").status, 200);
        let finding = caddy.trail().judge("/signed-in", &issuer.keys().await);
        assert_eq!(finding.requests, 1);
        finding.assert_every_request_carried_a_live_token_once();
    });
}

/// Runs `login` until it is content.
fn sign_in(folder: &Path, source: &str) {
    let config = format!(
        r#"
[proxy.destinations]
allow = ["127.0.0.1/32"]
[state]
dir = "state"
[[token]]
name = "api"
owner = "team-peers@example.com"
reason = "to call a server of this test"
scopes = ["api:read"]
expires = "2100-01-01"
hosts = ["127.0.0.1"]
source = {{ {source} }}
[[route]]
name = "api"
upstream = "https://127.0.0.1:1"
token = "api"
allow = ["GET /**"]
"#
    );
    let path = folder.join("countersign.toml");
    std::fs::write(&path, config).expect("write the config");
    let mut command = Command::new(binary());
    command.args(["login", "api", "--json", "--config"]).arg(&path).env("PEERS_CLIENT_SECRET", CLIENT_SECRET);
    let mut child = command.stdout(Stdio::piped()).spawn().expect("the program runs");
    let mut out = BufReader::new(child.stdout.take().expect("a pipe"));
    let mut line = String::new();
    out.read_line(&mut line).expect("a line");
    let prompt: Value = serde_json::from_str(&line).expect("what to do");
    browse(folder, prompt["verification_uri_complete"].as_str().expect("a URL"));
    out.read_to_string(&mut line).expect("its end");
    assert!(child.wait().expect("it ends").success(), "{line}");
    assert!(line.contains(r#""signed_in":true"#), "{line}");
}

/// Fills in and sends each form that comes, until none does.
fn browse(folder: &Path, start: &str) {
    let (mut url, mut page) = curl(folder, start, &[]);
    for _ in 0..8 {
        let Some((_, form)) = page.split_once("<form") else {
            assert!(page.contains("Success"), "{page}");
            return;
        };
        let form = form.split("</form>").next().unwrap_or_default();
        if let Some(action) = attribute(form, "action") {
            url = action.to_owned();
        }
        let fields: Vec<String> = form
            .split('<')
            .filter_map(|tag| Some((attribute(tag, "name")?, attribute(tag, "value").unwrap_or("me"))))
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        (url, page) = curl(folder, &url, &fields);
    }
    panic!("it does not end: {page}");
}

fn attribute<'t>(tag: &'t str, name: &str) -> Option<&'t str> {
    tag.split_once(&format!(" {name}=\""))?.1.split('"').next()
}

/// The page that comes in the end, and its URL.
fn curl(folder: &Path, url: &str, fields: &[String]) -> (String, String) {
    let jar = folder.join("cookies");
    let mut command = Command::new(tool("curl"));
    command.args(["--silent", "--show-error", "--location", "--write-out", "\n%{url_effective}"]);
    command.arg("--cookie").arg(&jar).arg("--cookie-jar").arg(&jar);
    for field in fields {
        command.args(["--data-urlencode", field]);
    }
    let ran = command.arg(url).output().expect("curl runs");
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    let text = String::from_utf8(ran.stdout).expect("UTF-8");
    let (page, url) = text.rsplit_once('\n').expect("what was asked for");
    (url.to_owned(), page.to_owned())
}
