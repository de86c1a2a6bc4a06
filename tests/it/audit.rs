//! The trail over the admin API: what an operator gets there can be verified without trusting the proxy.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use countersign::audit::{Hash, Note, Verifier};
use serde_json::Value;

use crate::support::operator::{json_of, own};
use crate::support::{Issuer, SOON, Scene, Setup, Upstream, wait_until};

async fn asked(scene: &Scene, path: &str) -> Value {
    let answer = own(scene, &format!("GET /v1/audit/{path}"), "").await;
    assert_eq!(answer.status, 200, "{path}: {}", answer.text());
    json_of(&answer)
}

fn hash(text: &Value) -> Hash {
    let bytes = STANDARD.decode(text.as_str().expect("text")).expect("base64");
    Hash(bytes.try_into().expect("32 bytes"))
}

/// RFC 9162, section 2.1.3.2.
fn root_by_proof(leaf: Hash, index: u64, size: u64, proof: &[Hash]) -> Hash {
    let (mut index, mut last, mut root) = (index, size - 1, leaf);
    for &other in proof {
        if index & 1 == 1 || index == last {
            root = Hash::of_node(other, root);
            while index & 1 == 0 && index != 0 {
                (index, last) = (index >> 1, last >> 1);
            }
        } else {
            root = Hash::of_node(root, other);
        }
        (index, last) = (index >> 1, last >> 1);
    }
    root
}

#[tokio::test]
async fn each_record_is_proved_to_be_in_the_signed_tree() {
    let (issuer, upstream) = (Issuer::named("tok", 3600).await, Upstream::http1().await);
    let scene = Setup::api(&issuer, &upstream).start().await;
    scene.ready().await;
    // Each call leaves a record itself.
    let mut checkpoint = Value::Null;
    wait_until("three records are signed", SOON, async || {
        checkpoint = asked(&scene, "checkpoint").await;
        checkpoint["size"].as_u64() >= Some(3)
    })
    .await;
    let verifier: Verifier = checkpoint["key"].as_str().expect("text").parse().expect("a key");
    let notes = Note::parse_all(checkpoint["checkpoint"].as_str().expect("text")).expect("a note");
    let signed = verifier.open(&notes[0]).expect("signed");
    assert_eq!(signed.root, hash(&checkpoint["root"]));
    let size = signed.size;

    let text =
        std::fs::read_to_string(scene.folder().join("state/audit/trail-00000000000000000000.log")).expect("there");
    for (seq, line) in text.lines().take(3).enumerate() {
        let proof = asked(&scene, &format!("proof?seq={seq}&size={size}")).await;
        let hashes: Vec<Hash> = proof["hashes"].as_array().expect("a list").iter().map(hash).collect();
        let leaf = Hash::of_leaf(&line.as_bytes()[18..]);
        assert_eq!(root_by_proof(leaf, seq as u64, size, &hashes), signed.root);
    }
    let consistency = asked(&scene, "proof?old=2&size=3").await;
    let leaf = Hash::of_leaf(&text.lines().nth(2).expect("three records").as_bytes()[18..]);
    assert_eq!(consistency["hashes"], serde_json::json!([leaf.to_string()]));
}

#[tokio::test]
async fn records_are_given_in_pieces_and_by_what_they_tell() {
    let (issuer, upstream) = (Issuer::named("tok", 3600).await, Upstream::http1().await);
    let scene = Setup::api(&issuer, &upstream).start().await;
    scene.ready().await;
    scene.recorded("token_issued", 1).await;
    let first = asked(&scene, "records?limit=2").await;
    assert_eq!((first["records"].as_array().map(Vec::len), &first["next"]), (Some(2), &2.into()));
    assert_eq!(first["records"][0]["event"], "start");
    let rest = asked(&scene, "records?from=2&event=token_issued").await;
    assert_eq!(rest["records"].as_array().map(Vec::len), Some(1));
    assert_eq!((&rest["records"][0]["event"], &rest["next"]), (&"token_issued".into(), &Value::Null));
    let invalid = (422, "invalid");
    for (wrong, expected) in [
        ("proof", invalid),
        ("proof?seq=1&old=1", invalid),
        ("proof?seq=x", invalid),
        ("proof?seq=%2B1", invalid),
        ("records?from=-1", invalid),
        ("records?from=9007199254740992", invalid),
        ("proof?seq=0&size=100000", (404, "not_in_trail")),
    ] {
        let (status, reason) = own(&scene, &format!("GET /v1/audit/{wrong}"), "").await.refusal();
        assert_eq!((status, &*reason), expected, "{wrong}");
    }
}
