//! A process of another user.

use std::process::{Command, Output};

use crate::support::caddy::Caddy;
use crate::support::issuer::Issuer;
use crate::support::proxy::{Proxy, ROUTE};
use crate::support::{in_turn, tool};

/// `nobody`
const STRANGER: &str = "65534";

/// What curl exits with when it could not connect.
const NOT_CONNECTED: i32 = 7;

#[test]
fn another_user_is_not_a_known_client() {
    in_turn(async {
        assert!(
            rustix::process::getuid().is_root(),
            "to start a process of another user, this test must be root: `sudo make test`"
        );
        let (issuer, caddy) = (Issuer::start().await, Caddy::start().await);
        let proxy = Proxy::between(&issuer, caddy.address, &caddy.certificates).await;
        proxy.open_folder();
        assert_eq!(proxy.get("/own").await.expect("an answer").status, 200, "our own user is the client");
        let recorded = caddy.trail().count("/");

        let url = format!("http://{}/{ROUTE}/stranger", proxy.address);
        let over_tcp = curl_of_a_stranger(&[&url]);
        assert_client_unknown(&over_tcp);

        let socket = proxy.socket.to_str().expect("a path in UTF-8");
        let over_socket = curl_of_a_stranger(&["--unix-socket", socket, &format!("http://localhost/{ROUTE}/stranger")]);
        // The mode of the socket may turn it away before the proxy does.
        if over_socket.status.code() != Some(NOT_CONNECTED) {
            assert_client_unknown(&over_socket);
        }
        assert_eq!(caddy.trail().count("/"), recorded, "nothing of a stranger reaches the upstream");
    });
}

fn assert_client_unknown(output: &Output) {
    let printed = String::from_utf8_lossy(&output.stdout);
    let (body, status) = printed.rsplit_once('\n').unwrap_or_else(|| panic!("curl: {}", printed_by(output)));
    assert_eq!(status, "403", "{}", printed_by(output));
    let problem: serde_json::Value = serde_json::from_str(body).expect("problem+json");
    assert_eq!(problem["reason"], "client_unknown", "{body}");
}

fn printed_by(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn curl_of_a_stranger(arguments: &[&str]) -> Output {
    Command::new(tool("setpriv"))
        .args(["--reuid", STRANGER, "--regid", STRANGER, "--clear-groups", "--"])
        .arg(tool("curl"))
        .args(["--silent", "--show-error", "--max-time", "10", "--noproxy", "*", "--write-out", "\n%{http_code}"])
        .args(arguments)
        .output()
        .expect("setpriv runs")
}
