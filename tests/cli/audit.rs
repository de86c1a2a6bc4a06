//! `audit`, and the trail of a process that is killed, or whose disk is full.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::Signal;

use crate::support::{Place, Running, until};

/// The records of one event.
fn shown(place: &Place, event: &str) -> Vec<serde_json::Value> {
    let lines = place.run(&["audit", "show", "--json", "--event", event]).ok();
    lines.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

/// What the running proxy says of itself.
fn metric(place: &Place, name: &str) -> Option<String> {
    let url = format!("http://{}/metrics", place.telemetry);
    let scrape = Command::new("curl").args(["-s", &url]).output().expect("curl runs").stdout;
    let line = |line: &str| Some(line.strip_prefix(name)?.strip_prefix(' ')?.to_owned());
    String::from_utf8(scrape).expect("text").lines().find_map(line)
}

fn stop(mut running: Running) {
    running.signal(Signal::TERM);
    assert!(running.ended().success(), "{}", running.log());
}

/// A trail in which a proxy has started, got its token, and stopped.
fn written() -> Place {
    let place = Place::new("");
    place.write("token", "the-token");
    let running = place.start();
    place.run(&["wait"]).ok();
    stop(running);
    place
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).expect("made");
    for entry in std::fs::read_dir(from).expect("readable") {
        let path = entry.expect("an entry").path();
        std::fs::copy(&path, to.join(path.file_name().expect("a name"))).expect("copied");
    }
}

fn segment(folder: &Path) -> PathBuf {
    folder.join("trail-00000000000000000000.log")
}

#[test]
fn a_copied_trail_is_verified_against_what_was_kept_elsewhere() {
    let place = written();
    let said = place.run(&["audit", "verify"]).ok();
    assert!(said.contains("state/audit: ok, 5 records, 5 of them signed by countersign/"), "{said}");
    assert!(said.contains("give --key and --trusted"), "{said}");

    let kept = place.run(&["audit", "checkpoint"]);
    place.write("kept", &kept.out);
    place.write("key", kept.err.strip_prefix("key: ").expect("the key"));
    copy(&place.path("state/audit"), &place.path("copy"));
    let verify = ["audit", "verify", "--dir", "copy", "--trusted", "kept", "--key", "key"];
    let said = place.run(&verify).ok();
    assert!(said.starts_with("copy: ok, 5 records") && !said.contains("note:"), "{said}");

    let path = segment(&place.path("copy"));
    let text = std::fs::read_to_string(&path).expect("there");
    std::fs::write(&path, text.replacen("the tests need it", "the tests want it", 1)).expect("edited");
    let ended = place.run(&verify);
    assert_eq!(ended.code, 1);
    let finding = "trail-00000000000000000000.log:2: edited: record 1 is not what was written\n";
    assert!(ended.out.starts_with(finding), "{}", ended.out);

    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    std::fs::write(&path, lines[..3].concat()).expect("cut");
    let ended = place.run(&[&verify[..], &["--json"]].concat());
    assert_eq!(ended.code, 1);
    let report = ended.json();
    assert_eq!(report["findings"][0]["tampering"], "truncated");
    assert_eq!(report["findings"][0]["seq"], 3);
    assert_eq!(report["ok"], false);
}

#[test]
fn records_are_shown_as_they_are_asked_for() {
    let place = written();
    let all = place.run(&["audit", "show"]).ok();
    let events: Vec<&str> = all.lines().map(|line| line.split_whitespace().nth(2).expect("an event")).collect();
    assert_eq!(events, ["start", "token_requested", "access_granted", "token_issued", "stop"]);
    let issued = &shown(&place, "token_issued")[0];
    assert_eq!((&issued["seq"], &issued["token"]), (&3.into(), &"api".into()));
    let of = |arguments: &[&str]| place.run(&[&["audit", "show"], arguments].concat()).ok().lines().count();
    assert_eq!(of(&["--token", "api"]), 3);
    assert_eq!(of(&["--from", "4"]), 1);
    assert_eq!(of(&["--since", "2000-01-01"]), 5);
    assert_eq!(of(&["--until", "2000-01-01"]), 0);
    place.run(&["audit", "show", "--since", "yesterday"]).failed(64);
    place.run(&["audit", "verify", "--dir", "nowhere"]).failed(1);
}

#[test]
fn a_process_that_is_killed_leaves_a_trail_that_is_signed_on() {
    let place = Place::new("");
    place.write("token", "the-token");
    for run in 0..8_u64 {
        let mut running = place.start();
        place.run(&["wait"]).ok();
        let before = place.run(&["audit", "checkpoint"]).out;
        place.write("kept", &before);
        // Something is being written when it ends, at a moment that differs.
        for _ in 0..run {
            running.signal(Signal::HUP);
        }
        running.signal(Signal::KILL);
        running.ended();
        place.run(&["audit", "verify", "--trusted", "kept"]).ok();
    }
    stop(place.start());
    place.run(&["audit", "verify", "--trusted", "kept"]).ok();
    assert_eq!(shown(&place, "start").len(), 9);
}

#[test]
fn a_trail_that_was_put_back_is_not_started_on() {
    let place = written();
    let kept = segment(&place.path("state/audit"));
    let earlier = std::fs::read(&kept).expect("there");
    stop(place.start());
    std::fs::write(&kept, earlier).expect("put back");
    let said = place.run(&["run"]).failed(1);
    assert!(said.contains("is behind its last checkpoint"), "{said}");
    assert!(said.contains("start with another audit.dir"), "{said}");
}

#[test]
fn a_disk_that_fills_up_is_survived_and_told() {
    let place = Place::new("");
    place.write("token", "the-token");
    let folder = place.path("state/audit");
    std::fs::create_dir_all(&folder).expect("made");
    std::os::unix::fs::chown(place.path("state"), Some(place.user()), None).expect("ours");
    // The mount is seen by the proxy alone.
    let program = env!("CARGO_BIN_EXE_countersign");
    let script = format!("mount -t tmpfs -o size=2m,mode=0700 tmpfs {} && exec {program} run", folder.display());
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c", &script]);
    command.env("COUNTERSIGN_CONFIG", place.path("countersign.toml")).current_dir(place.path("."));
    let running = place.spawn(&mut command);
    place.run(&["wait"]).ok();

    let inside =
        PathBuf::from(format!("/proc/{}/root", running.id())).join(folder.strip_prefix("/").expect("absolute"));
    let mut filler = File::create(inside.join("filler")).expect("the proxy's own view of the disk");
    while filler.write_all(&[0; 4096]).is_ok() {}
    // The rest of the page that is there takes some; each refused config is one record more.
    until("the disk is full", || {
        running.signal(Signal::HUP);
        place.write_config("nothing = \"is as it should be\"");
        metric(&place, "countersign_audit_healthy").filter(|healthy| healthy == "0")
    });
    // The other one is about the config.
    until("it is an alert", || metric(&place, "countersign_alerts_open").filter(|open| open == "2"));

    drop(filler);
    std::fs::remove_file(inside.join("filler")).expect("room again");
    until("the trail is healthy", || metric(&place, "countersign_audit_healthy").filter(|healthy| healthy == "1"));
    until("the alert is over", || metric(&place, "countersign_alerts_open").filter(|open| open == "1"));
    // The mount ends with the proxy.
    copy(&inside, &place.path("copy"));
    stop(running);
    let said = place.run(&["audit", "verify", "--dir", "copy"]).ok();
    assert!(said.contains("ok, "), "{said}");
    let failed = place.run(&["audit", "show", "--dir", "copy", "--event", "audit_failed"]).ok();
    assert!(failed.contains("No space left on device"), "{failed}");
}
