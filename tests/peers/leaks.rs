//! No output of the proxy shows a token, however talkative it is.

use std::path::Path;
use std::time::Duration;

use crate::support::caddy::Caddy;
use crate::support::issuer::{CLIENT_SECRET, Issuer};
use crate::support::proxy::{Proxy, ROUTE, Settings};
use crate::support::{http, in_turn, wait_until};

/// What an app sends of its own where the proxy injects. It is the app's, and stays unshown as well.
const APP_CREDENTIAL: &str = "app-credential-8dJ2mQz7LkX4vB1n";

#[test]
fn no_output_shows_a_token() {
    in_turn(async {
        let (mut issuer, caddy) = (Issuer::start().await, Caddy::start().await);
        let usual = Settings::between(&issuer, caddy.address, &caddy.certificates);
        let mut proxy = Proxy::start(&Settings { log_level: "trace", ..usual }).await;
        let mut outputs: Vec<(String, String)> = Vec::new();

        wait_until("three generations have been used", Duration::from_secs(60), async || {
            proxy.get("/leaks").await.expect("an answer");
            (caddy.trail().tokens("/leaks").len() >= 3).then_some(())
        })
        .await;
        for (path, header) in [
            (format!("/{ROUTE}/leaks"), ("authorization", format!("Bearer {APP_CREDENTIAL}"))),
            (format!("/{ROUTE}/denied"), ("authorization", format!("Bearer {APP_CREDENTIAL}"))),
            (format!("/{ROUTE}/..%2fdenied"), ("x-none", String::new())),
            ("/no-such-route/x".to_owned(), ("x-none", String::new())),
            (format!("/{ROUTE}/leaks"), ("origin", "https://elsewhere.example".to_owned())),
        ] {
            let answer = http::get_with(proxy.address, &path, &[(header.0, &header.1)]).await.expect("an answer");
            outputs.push((
                format!("the answer to {path} with {}", header.0),
                format!("{:?} {}", answer.headers, answer.text()),
            ));
        }
        issuer.stop().await;
        let refused = wait_until("the token has expired", Duration::from_secs(15), async || {
            proxy.get("/leaks").await.filter(|answer| answer.status == 503)
        })
        .await;
        outputs.push(("the answer when there is no token".to_owned(), refused.text()));
        outputs.push(("/metrics".to_owned(), proxy.metrics().await));
        for path in ["/readyz?verbose", "/livez", "/startupz", "/.well-known/jwks.json"] {
            let answer = http::get(proxy.telemetry, path).await.expect("an answer");
            outputs.push((path.to_owned(), answer.text()));
        }
        proxy.terminate().await;
        outputs.push(("the log".to_owned(), proxy.output()));
        read_folder(&proxy.state(), &mut outputs);

        let tokens = caddy.trail().tokens("/leaks");
        assert!(tokens.len() >= 3, "{} tokens", tokens.len());
        assert!(outputs.iter().any(|(name, _)| name.contains("audit")), "the audit trail is among the outputs");
        let mut secrets: Vec<String> = vec![CLIENT_SECRET.to_owned(), APP_CREDENTIAL.to_owned()];
        for token in &tokens {
            // A part of a token is as good as the whole to whoever has the other part.
            secrets.extend(token.split('.').skip(1).map(ToOwned::to_owned));
        }
        let mut shown = Vec::new();
        for form in secrets.iter().flat_map(|secret| forms(secret)) {
            for (name, output) in &outputs {
                if output.contains(&form) {
                    // The start tells which form it is; a message is an output too.
                    shown.push(format!("{name} holds {}...", form.chars().take(12).collect::<String>()));
                }
            }
        }
        assert!(shown.is_empty(), "{}", shown.join("\n"));
    });
}

/// Every file below `folder`.
fn read_folder(folder: &Path, outputs: &mut Vec<(String, String)>) {
    for entry in std::fs::read_dir(folder).expect("the state folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            read_folder(&path, outputs);
        } else if path.is_file() {
            let bytes = std::fs::read(&path).expect("a file of the state folder");
            outputs.push((path.display().to_string(), String::from_utf8_lossy(&bytes).into_owned()));
        }
    }
}

/// The forms in which a secret could be written: as it is, percent-encoded, in hex, and in base64 wherever it starts.
fn forms(secret: &str) -> Vec<String> {
    let encoded: String = form_urlencoded::byte_serialize(secret.as_bytes()).collect();
    let hex: String = secret.bytes().map(|byte| format!("{byte:02x}")).collect();
    let percent: String = secret.bytes().map(|byte| format!("%{byte:02X}")).collect();
    let debug = format!("{:?}", secret.as_bytes());
    let mut forms = vec![
        secret.to_owned(),
        hex.to_uppercase(),
        percent.to_lowercase(),
        percent,
        hex,
        debug[1..debug.len() - 1].to_owned(),
    ];
    for text in [secret, &encoded] {
        forms.extend((0..3).flat_map(|offset| base64(text.as_bytes(), offset)));
    }
    forms.push(encoded);
    forms
}

/// What of `bytes` is the same in base64 whatever stands around them, if `offset` bytes stand before them in their group of
/// three; in both alphabets.
fn base64(bytes: &[u8], offset: usize) -> [String; 2] {
    let whole = &bytes[(3 - offset) % 3..];
    ["+/", "-_"].map(|last| {
        let alphabet: Vec<char> = ('A'..='Z').chain('a'..='z').chain('0'..='9').chain(last.chars()).collect();
        let groups = whole.chunks_exact(3);
        groups
            .flat_map(|group| {
                let bits = u32::from_be_bytes([0, group[0], group[1], group[2]]);
                [18, 12, 6, 0].map(|shift| alphabet[(bits >> shift & 63) as usize])
            })
            .collect()
    })
}

#[test]
fn base64_is_found_wherever_the_secret_starts() {
    // printf 'basic:secret42' | base64, and the same with "x" and "xy" before it
    for whole in ["YmFzaWM6c2VjcmV0NDI=", "eGJhc2ljOnNlY3JldDQy", "eHliYXNpYzpzZWNyZXQ0Mg=="] {
        let forms = forms("secret42");
        assert!(forms.iter().any(|form| whole.contains(form.as_str())), "{whole}: {forms:?}");
    }
    assert!(forms("a b+").contains(&"a+b%2B".to_owned()));
}
