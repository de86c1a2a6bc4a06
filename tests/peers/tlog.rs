//! The trail's checkpoints and proofs are what they say to a verifier that others wrote: aics-tlog, by C2SP's and the RFCs' words
//! alone. It accepts what the proxy signs and proves, and nothing that was touched since.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::caddy::Caddy;
use crate::support::issuer::Issuer;
use crate::support::operators::key_line;
use crate::support::proxy::{Proxy, Settings};
use crate::support::{free_port, http, in_turn, package, wait_until};

const KEY: &str = "the-key-of-who-looks-at-the-trail";

#[test]
fn another_verifier_accepts_our_checkpoints_and_proofs_and_none_that_were_touched() {
    in_turn(async {
        let (issuer, caddy) = (Issuer::start().await, Caddy::start().await);
        let admin: SocketAddr = ([127, 0, 0, 1], free_port()).into();
        let key = key_line(KEY);
        let proxy_lines =
            format!("[admin]\nlisten = \"{admin}\"\n[[operator]]\nname = \"auditor\"\n{key}\nroles = [\"viewer\"]");
        let usual = Settings::between(&issuer, caddy.address, &caddy.certificates);
        let proxy = Proxy::start(&Settings { proxy_lines, ..usual }).await;
        let old = signed_beyond(admin, 0).await;
        let new = signed_beyond(admin, old["size"].as_u64().expect("a size") + 20).await;
        let good = asked(admin, &proxy.state().join("audit"), &old, &new).await;
        let count = good["records"].as_array().map_or(0, Vec::len);
        assert!(count > 20, "{count}");
        let verdict = judged(&good);
        let all = json!({ "old": true, "new": true, "consistent": true, "included": vec![true; count] });
        assert_eq!(verdict, all);
        for (what, touched, accepted) in touched(&good) {
            let verdict = judged(&touched);
            for judgement in accepted.as_object().expect("judgements") {
                assert_eq!(&verdict[judgement.0], judgement.1, "{what}: {}", judgement.0);
            }
        }
    });
}

/// Each a small step away from what is right, and what is not to be accepted then.
fn touched(good: &Value) -> Vec<(&'static str, Value, Value)> {
    let count = good["records"].as_array().map_or(0, Vec::len);
    let but = |at: usize| (0..count).map(|number| number != at).collect::<Vec<bool>>();
    let with = |edit: &dyn Fn(&mut Value)| {
        let mut touched = good.clone();
        edit(&mut touched);
        touched
    };
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    // Another size under the same signature; another key's name; a root that nobody signed.
    let larger = with(&|asked| {
        let note = text(&asked["new"]);
        let size = note.lines().nth(1).expect("a size").to_owned();
        asked["new"] = note.replacen(&format!("\n{size}\n"), &format!("\n{size}0\n"), 1).into();
    });
    let rooted = with(&|asked| {
        let (old, new) = (text(&asked["old"]), text(&asked["new"]));
        let root = |note: &str| note.lines().nth(2).expect("a root").to_owned();
        asked["new"] = new.replacen(&root(&new), &root(&old), 1).into();
    });
    let edited = with(&|asked| {
        let json = text(&asked["records"][3]["json"]);
        asked["records"][3]["json"] = json.replacen("\"seq\":3", "\"seq\": 3", 1).into();
    });
    let moved = with(&|asked| asked["records"][5]["seq"] = 6.into());
    let unproved = with(&|asked| asked["records"][7]["proof"][0] = asked["records"][8]["proof"][1].clone());
    let short = with(&|asked| drop(asked["consistency"].as_array_mut().expect("hashes").pop()));
    vec![
        (
            "a size that was not signed",
            larger,
            json!({ "new": false, "consistent": false, "included": vec![false; count] }),
        ),
        (
            "a root that was not signed",
            rooted,
            json!({ "new": false, "consistent": false, "included": vec![false; count] }),
        ),
        ("an edited record", edited, json!({ "new": true, "consistent": true, "included": but(3) })),
        ("a record in another place", moved, json!({ "included": but(5) })),
        ("another record's proof", unproved, json!({ "included": but(7) })),
        ("a proof that ends early", short, json!({ "consistent": false, "included": vec![true; count] })),
    ]
}

async fn get(admin: SocketAddr, path: &str) -> Value {
    let answer = http::get_with(admin, path, &[("authorization", &format!("Bearer {KEY}"))]).await.expect("an answer");
    assert_eq!(answer.status, 200, "{path}: {}", answer.text());
    serde_json::from_slice(&answer.body).expect("JSON")
}

/// A checkpoint of more records than this. Each look is a record itself.
async fn signed_beyond(admin: SocketAddr, size: u64) -> Value {
    wait_until("a checkpoint is signed", Duration::from_secs(30), async || {
        let found = get(admin, "/v1/audit/checkpoint").await;
        (found["size"].as_u64() > Some(size)).then_some(found)
    })
    .await
}

/// What the verifier is asked: records as they lie on the disk, with what the proxy gives as their proofs.
async fn asked(admin: SocketAddr, trail: &Path, old: &Value, new: &Value) -> Value {
    let size = new["size"].as_u64().expect("a size");
    let text = std::fs::read_to_string(trail.join("trail-00000000000000000000.log")).expect("the trail");
    let mut records = Vec::new();
    for (seq, line) in text.lines().enumerate().take(usize::try_from(size).expect("small")) {
        let json = line.splitn(3, ' ').nth(2).expect("length, checksum, JSON");
        let proof = get(admin, &format!("/v1/audit/proof?seq={seq}&size={size}")).await;
        records.push(json!({ "seq": seq, "json": json, "proof": proof["hashes"] }));
    }
    let consistency = get(admin, &format!("/v1/audit/proof?old={}&size={size}", old["size"])).await;
    let (key, old, new) = (&new["key"], &old["checkpoint"], &new["checkpoint"]);
    json!({ "key": key, "old": old, "new": new, "records": records, "consistency": consistency["hashes"] })
}

fn judged(asked: &Value) -> Value {
    let mut command = Command::new(package().join(".tools/tlog-venv/bin/python"));
    command
        .arg(package().join("tests/peers/tlog.py"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut verifier = command.spawn().expect("`make test` installs it");
    verifier.stdin.take().expect("a pipe").write_all(asked.to_string().as_bytes()).expect("it reads");
    let ended = verifier.wait_with_output().expect("it ends");
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    serde_json::from_slice(&ended.stdout).expect("JSON")
}
