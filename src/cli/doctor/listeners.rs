//! Our own listeners, asked as an attacker would: forged hosts, web pages, strangers. Every request here is one that must be
//! refused, and asks for nothing that exists, so that not even a proxy without any guard would send it on.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::Findings;
use super::people::People;
use crate::app::environment::reachable;
use crate::config::Config;
use crate::proxy::Address;
use crate::tls::Shown;

const PATIENCE: Duration = Duration::from_secs(5);

/// A name that no resolver knows (RFC 6761) and no route has.
const NOWHERE: &str = "countersign-doctor.invalid";

/// What an attacker tries, the request, and the reason with which it is to be refused.
fn attacks() -> [(&'static str, String, &'static str); 5] {
    [
        (
            "a name that was made to lead here (DNS rebinding)",
            format!("GET /{NOWHERE} HTTP/1.1\r\nhost: {NOWHERE}\r\n"),
            "host_unknown",
        ),
        (
            "a web page of another site",
            format!("GET /{NOWHERE} HTTP/1.1\r\nhost: localhost\r\norigin: https://{NOWHERE}\r\n"),
            "browser_refused",
        ),
        (
            "a web page, by a request without Origin",
            format!("GET /{NOWHERE} HTTP/1.1\r\nhost: localhost\r\nsec-fetch-site: cross-site\r\n"),
            "browser_refused",
        ),
        (
            "a target and a Host header that differ",
            format!("GET http://{NOWHERE}/ HTTP/1.1\r\nhost: localhost\r\n"),
            "host_mismatch",
        ),
        (
            "a body whose length is told twice",
            format!("POST /{NOWHERE} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1\r\ncontent-length: 2\r\n"),
            "framing",
        ),
    ]
}

pub async fn look(config: &Config, people: &People, found: &mut Findings) {
    if let Some(tls) = &config.proxy.tls {
        match tls.server_of_apps(Shown::Always) {
            Ok(_) => found.ok("the certificate, the key and the CA of `tls` in [proxy] can be used"),
            Err(error) => found.problem(format!("`tls` in [proxy]: {error}"), "put files there that can be used"),
        }
    }
    for listener in &config.proxy.listen {
        let address = match listener {
            Address::Tcp(address) | Address::Tls(address) => address,
            Address::Unix(_) => continue,
        };
        let address = SocketAddr::new(reachable(address.ip()), address.port());
        if address.port() == 0 {
            found.note("a listener has port 0, so that only the running proxy knows its port", "give it a port");
        } else if let Err(error) = TcpStream::connect(address).await {
            found.warning(format!("nobody listens on {address}: {error}"), "start the proxy: countersign run");
        } else if let Address::Tls(_) = listener {
            answers_nobody_in_the_clear(address, found).await;
        } else {
            attack(address, config, people, found).await;
        }
    }
}

/// Who speaks no TLS to a listener that is under it hears nothing.
async fn answers_nobody_in_the_clear(address: SocketAddr, found: &mut Findings) {
    let exchange = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(format!("GET /{NOWHERE} HTTP/1.1\r\nhost: localhost\r\n\r\n").as_bytes()).await?;
        let mut first = [0; 4];
        stream.read_exact(&mut first).await.map(|_| first)
    };
    match timeout(PATIENCE, exchange).await {
        Ok(Ok(first)) if first == *b"HTTP" => found.problem(
            format!("{address} should be under TLS, and answers a request in the clear"),
            "does the proxy run on this config? If so, report it as SECURITY.md says",
        ),
        Ok(_) => found.ok(format!("{address} answers nobody in the clear")),
        Err(_) => found.warning(format!("{address} does not end a connection in the clear"), "look at the proxy's log"),
    }
}

async fn attack(address: SocketAddr, config: &Config, people: &People, found: &mut Findings) {
    for (what, request, reason) in attacks() {
        match ask(address, &request).await {
            Some(answer) if is_refused(&answer, reason) => found.ok(format!("{address} refuses {what}: {reason}")),
            Some(answer) => {
                let status = answer.lines().next().unwrap_or_default();
                found.problem(
                    format!("{address} does not refuse {what} with {reason}, but answers {status:?}"),
                    "is it countersign that listens there? If so, report it as SECURITY.md says",
                );
            }
            None => found.warning(format!("{address} did not answer {what} in time"), "look at the proxy's log"),
        }
    }
    strangers(address, config, people, found).await;
}

/// Whether we are known as what the config says we are.
async fn strangers(address: SocketAddr, config: &Config, people: &People, found: &mut Findings) {
    // A client that is not known by its user may be us.
    if config.clients.iter().any(|client| client.uid.is_none()) {
        return;
    }
    let client =
        if config.clients.is_empty() { people.own == people.proxy } else { people.clients.contains(&people.own) };
    let request = format!("GET /{NOWHERE} HTTP/1.1\r\nhost: localhost\r\n");
    let Some(answer) = ask(address, &request).await else { return };
    let own = people.own;
    match (client, is_refused(&answer, "client_unknown")) {
        (false, true) => found.ok(format!("{address} refuses user {own}, who is no client")),
        (true, false) => found.ok(format!("{address} knows user {own} as a client")),
        (false, false) => found.problem(
            format!("{address} takes user {own} for a client, and the config names no such client"),
            "does the proxy run on this config? Reload it: SIGHUP",
        ),
        (true, true) => found.warning(
            format!("{address} does not know user {own}, whom the config names as a client"),
            "does the proxy run on this config? Reload it: SIGHUP",
        ),
    }
}

fn is_refused(answer: &str, reason: &str) -> bool {
    answer.contains(&format!("details={reason}\r\n"))
}

/// The answer to these lines; none where it does not come in time.
async fn ask(address: SocketAddr, lines: &str) -> Option<String> {
    let exchange = async {
        let mut stream = TcpStream::connect(address).await.ok()?;
        stream.write_all(format!("{lines}connection: close\r\n\r\n").as_bytes()).await.ok()?;
        let mut answer = Vec::new();
        stream.take(64 * 1024).read_to_end(&mut answer).await.ok()?;
        Some(String::from_utf8_lossy(&answer).into_owned())
    };
    timeout(PATIENCE, exchange).await.ok().flatten()
}
