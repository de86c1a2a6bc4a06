//! `tokens`

use crate::support::{Place, until};

const KEY: &str = "0123456789abcdef0123456789abcdef";

#[test]
fn tokens_are_listed_for_people_and_for_programs() {
    let (place, _proxy) = Place::running("");
    let table = place.run(&["tokens", "list"]).ok();
    let lines: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["NAME", "STATE", "GENERATION", "FINGERPRINT", "EXPIRES", "GRANT", "ENDS", "OWNER"]);
    assert_eq!((lines.len(), lines[1][0], lines[1][1], lines[1][2]), (2, "api", "active", "1"));
    let json = place.run(&["tokens", "list", "--json"]).json();
    assert_eq!(json["tokens"][0]["generation"]["fingerprint"], lines[1][3]);
    let page = place.run(&["tokens", "show", "api"]).ok();
    assert!(page.contains("state:        active\n") && page.contains("owner:        team@example.com\n"), "{page}");
    assert!(!format!("{table}{json}{page}").contains("the-token"));
}

#[test]
fn a_token_is_taken_out_of_use_and_whoever_did_it_does_not_let_it_in() {
    let (place, _proxy) = Place::running("");
    let said = place.run(&["tokens", "quarantine", "api"]).failed(64);
    assert!(said.contains("--reason <TEXT>"), "{said}");
    let page = place.run(&["tokens", "quarantine", "api", "--reason", "odd use"]).ok();
    assert!(page.contains("state:        quarantined\n"), "{page}");
    let said = place.run(&["tokens", "release", "api", "--reason", "it was us"]).failed(77);
    assert!(said.contains("approver") && said.contains("(not_allowed)"), "{said}");
    let said = place.run(&["tokens", "show", "none"]).failed(1);
    assert_eq!(said, "countersign: there is no token of this name (no_token)\n");
}

#[test]
fn an_operator_is_known_by_its_key() {
    let own = rustix::process::geteuid().as_raw();
    let digest = sha256(KEY);
    let operators = format!(
        "[[operator]]\nname = \"guard\"\nuid = {own}\nroles = [\"responder\"]\n\
         [[operator]]\nname = \"approver\"\nkey = \"sha256:{digest}\"\nroles = [\"approver\"]"
    );
    let (place, _proxy) = Place::running(&operators);
    place.run(&["tokens", "quarantine", "api", "--reason", "odd use"]).ok();
    let release = ["tokens", "release", "api", "--reason", "it was us"];
    place.run(&release).failed(77);
    place.write("wrong", "another-key\n");
    let wrong = [&release[..], &["--operator-key", "wrong"]].concat();
    assert!(place.run(&wrong).failed(77).contains("(unauthenticated)"));
    place.write("key", &format!("{KEY}\n"));
    place.run(&[&release[..], &["--operator-key", "key"]].concat()).ok();
    place.run(&["tokens", "quarantine", "api", "--reason", "again"]).ok();
    let ended = crate::support::Ended::of(
        place.command(&release).env("COUNTERSIGN_OPERATOR_KEY", KEY).output().expect("the program runs"),
    );
    assert!(ended.ok().contains("state:        active\n"));
}

#[test]
fn where_nobody_listens_the_proxy_is_not_reachable() {
    let place = Place::new("");
    let said = place.run(&["tokens", "list"]).failed(69);
    assert!(said.contains(&format!("cannot be reached at {}", place.path("state/admin.sock").display())), "{said}");
    let said = Place::empty().run(&["tokens", "list", "--admin", "/nowhere/admin.sock"]).failed(69);
    assert!(said.contains("/nowhere/admin.sock"), "{said}");
    Place::empty().run(&["tokens", "list"]).failed(78);
    Place::empty().run(&["tokens", "list", "--admin", "10.0.0.1:80"]).failed(64);
}

#[test]
fn the_address_is_taken_from_the_variable_and_from_the_option_first() {
    let (place, _proxy) = Place::running("[admin]\nlisten = \"unix:elsewhere/admin.sock\"");
    let socket = place.path("elsewhere/admin.sock");
    until("the socket is there", || socket.exists().then_some(()));
    place.run(&["tokens", "list"]).ok();
    let list = |variable: &str, option: &[&str]| {
        let mut command = place.command(&[&["tokens", "list"], option].concat());
        command.env("COUNTERSIGN_ADMIN", variable).env_remove("COUNTERSIGN_CONFIG");
        crate::support::Ended::of(command.output().expect("the program runs")).code
    };
    let socket = socket.to_str().expect("UTF-8");
    assert_eq!(list(socket, &[]), 0);
    assert_eq!(list("/nowhere", &[]), 69);
    assert_eq!(list("/nowhere", &["--admin", socket]), 0);
    assert_eq!(list("nonsense", &[]), 64);
}

fn sha256(text: &str) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_bytes());
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}
