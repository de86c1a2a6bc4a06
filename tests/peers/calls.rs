//! The ways in, as the README shows them: with curl.

use std::path::Path;
use std::process::{Command, Output};

use crate::support::caddy::Caddy;
use crate::support::issuer::Issuer;
use crate::support::nginx::Nginx;
use crate::support::proxy::{Proxy, ROUTE};
use crate::support::{in_turn, noise, tool};

/// Of an upload and of a download.
const LARGE: usize = 10 * 1024 * 1024;

#[test]
fn curl_reaches_the_upstream_by_prefix_by_name_as_a_proxy_and_over_the_socket() {
    in_turn(async {
        let (issuer, caddy) = (Issuer::start().await, Caddy::start().await);
        let proxy = Proxy::between(&issuer, caddy.address, &caddy.certificates).await;
        let (port, upstream) = (proxy.address.port(), caddy.address);
        let socket = proxy.socket.to_str().expect("a path in UTF-8");
        let proxy_url = format!("http://{}", proxy.address);
        for (way, arguments) in [
            ("/prefix", vec![format!("http://localhost:{port}/{ROUTE}/prefix")]),
            ("/name", vec![format!("http://{ROUTE}.localhost:{port}/name")]),
            ("/absolute", vec!["--proxy".to_owned(), proxy_url, format!("http://{upstream}/absolute")]),
            (
                "/socket",
                vec!["--unix-socket".to_owned(), socket.to_owned(), format!("http://localhost/{ROUTE}/socket")],
            ),
        ] {
            let printed = curl(&arguments);
            assert_eq!(String::from_utf8_lossy(&printed), r#"{"object":"ok"}"#, "{way}");
            let finding = caddy.trail().judge(way, &issuer.keys().await);
            assert_eq!(finding.requests, 1, "{way}");
            finding.assert_every_request_carried_a_live_token_once();
        }
    });
}

#[test]
fn ten_mebibytes_come_down_intact() {
    in_turn(async {
        let (issuer, caddy) = (Issuer::start().await, Caddy::start().await);
        let proxy = Proxy::between(&issuer, caddy.address, &caddy.certificates).await;
        let content = noise(LARGE);
        caddy.serve("large", &content);
        let received = curl(&[format!("http://localhost:{}/{ROUTE}/files/large", proxy.address.port())]);
        assert!(
            received == content,
            "{} bytes came, {} were served, or their order differs",
            received.len(),
            content.len()
        );
    });
}

#[test]
fn ten_mebibytes_go_up_intact() {
    in_turn(async {
        let (issuer, nginx) = (Issuer::start().await, Nginx::start().await);
        let proxy = Proxy::between(&issuer, nginx.address, &nginx.certificates).await;
        let content = noise(LARGE);
        let folder = tempfile::tempdir().expect("temporary folder");
        let file = folder.path().join("large");
        std::fs::write(&file, &content).expect("write");
        // Of known length, and chunked.
        for (name, more) in [("counted", None), ("chunked", Some("Transfer-Encoding: chunked"))] {
            curl(&put(&file, &format!("http://localhost:{}/{ROUTE}/files/{name}", proxy.address.port()), more));
            let received = nginx.file(name);
            assert!(received == content, "{name}: {} bytes arrived, {} were sent", received.len(), content.len());
        }
    });
}

fn put(file: &Path, url: &str, header: Option<&str>) -> Vec<String> {
    let mut arguments = vec!["--upload-file".to_owned(), file.display().to_string()];
    if let Some(header) = header {
        arguments.extend(["--header".to_owned(), header.to_owned()]);
    }
    arguments.push(url.to_owned());
    arguments
}

/// What comes of a call with curl.
pub fn call(arguments: &[String]) -> Output {
    Command::new(tool("curl"))
        .args(["--silent", "--show-error", "--fail-with-body", "--max-time", "30"])
        // An environment that names a proxy has no part in this.
        .args(["--noproxy", if arguments.iter().any(|argument| argument == "--proxy") { "" } else { "*" }])
        .args(arguments)
        .output()
        .expect("curl runs")
}

/// What curl prints.
///
/// # Panics
/// When the call fails, or is answered with an error.
pub fn curl(arguments: &[String]) -> Vec<u8> {
    let output = call(arguments);
    let [body, said] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes));
    assert!(
        output.status.success(),
        "curl {}: {said}{}",
        arguments.join(" "),
        body.chars().take(1_000).collect::<String>()
    );
    output.stdout
}
