//! `audit`, and the trail of a process that is killed, or whose disk is full.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use tokio::time::Instant;

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

/// A proxy whose trail lies on a disk of two megabytes, which is seen by it alone.
struct OnSmallDisk {
    running: Running,
    /// The trail's folder, as the proxy sees it.
    inside: PathBuf,
}

impl OnSmallDisk {
    fn start(place: &Place) -> Self {
        let folder = place.path("state/audit");
        std::fs::create_dir_all(&folder).expect("made");
        std::os::unix::fs::chown(place.path("state"), Some(place.user()), None).expect("ours");
        let program = env!("CARGO_BIN_EXE_countersign");
        let script = format!("mount -t tmpfs -o size=2m,mode=0700 tmpfs {} && exec {program} run", folder.display());
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-c", &script]);
        command.env("COUNTERSIGN_CONFIG", place.path("countersign.toml")).current_dir(place.path("."));
        let running = place.spawn(&mut command);
        place.run(&["wait"]).ok();
        let root = PathBuf::from(format!("/proc/{}/root", running.id()));
        Self { inside: root.join(folder.strip_prefix("/").expect("absolute")), running }
    }

    /// Takes what is left. `record` leaves a record: the rest of the page that is there takes some.
    fn fill(&self, place: &Place, record: impl Fn()) {
        let mut filler = File::create(self.inside.join("filler")).expect("the proxy's own view of the disk");
        while filler.write_all(&[0; 4096]).is_ok() {}
        until("the disk has no room for what must be written", || {
            record();
            // A trail that only cannot be signed takes records still.
            metric(place, "countersign_audit_failures_total{operation=\"reserve\"}").filter(|failures| failures != "0")
        });
    }

    fn empty(&self, place: &Place) {
        std::fs::remove_file(self.inside.join("filler")).expect("room again");
        until("the trail is healthy", || metric(place, "countersign_audit_healthy").filter(|healthy| healthy == "1"));
    }
}

#[test]
fn a_disk_that_fills_up_is_survived_and_told() {
    let place = Place::new("");
    place.write("token", "the-token");
    let disk = OnSmallDisk::start(&place);
    disk.fill(&place, || {
        disk.running.signal(Signal::HUP);
        place.write_config("nothing = \"is as it should be\"");
    });
    // The other one is about the config.
    until("it is an alert", || metric(&place, "countersign_alerts_open").filter(|open| open == "2"));
    disk.empty(&place);
    until("the alert is over", || metric(&place, "countersign_alerts_open").filter(|open| open == "1"));
    // The mount ends with the proxy.
    copy(&disk.inside, &place.path("copy"));
    stop(disk.running);
    let said = place.run(&["audit", "verify", "--dir", "copy"]).ok();
    assert!(said.contains("ok, "), "{said}");
    let failed = place.run(&["audit", "show", "--dir", "copy", "--event", "audit_failed"]).ok();
    assert!(failed.contains("No space left on device"), "{failed}");
}

/// An upstream that answers whatever it is sent.
fn answering() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            let mut head = [0; 4096];
            // Whoever looks whether it is there says nothing.
            if stream.read(&mut head).is_ok_and(|read| read > 0) {
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            }
        }
    });
    address
}

/// The first line of the answer to a request through the proxy, and the answer.
fn asked(place: &Place, path: &str) -> (u16, String) {
    let mut proxy = TcpStream::connect(place.proxy).expect("connects");
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    proxy.write_all(request.as_bytes()).expect("sent");
    let mut answer = String::new();
    proxy.read_to_string(&mut answer).expect("text");
    (answer[9..12].parse().expect("a status"), answer)
}

/// Two tokens that are granted, one of them out of use, a request that waits, and a disk without room: what lets in is refused at
/// once, what takes away is done, and live tokens do as `on_failure` says.
fn a_full_disk_lets_nothing_in(on_failure: &str, (live, gone): (u16, u16)) {
    let upstream = answering();
    let key = |name: &str| {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, name.as_bytes());
        digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect::<String>()
    };
    let expires = jiff::Timestamp::now() + Duration::from_secs(30 * 24 * 3600);
    let place = Place::new(&format!(
        "[[token]]\nname = \"live\"\nowner = \"team@example.com\"\nreason = \"so\"\nscopes = [\"read\"]\nexpires = \"{expires}\"\n\
         hosts = [\"localhost\"]\nsource = {{ kind = \"file\", path = \"token\" }}\n\
         [[route]]\nname = \"live\"\nupstream = \"http://localhost:{}\"\ntoken = \"live\"\nallow = [\"GET /**\"]\n\
         [[operator]]\nname = \"alice\"\nkey = \"sha256:{}\"\nroles = [\"approver\", \"responder\"]\n\
         [[operator]]\nname = \"bob\"\nkey = \"sha256:{}\"\nroles = [\"requester\"]\n\
         [approval]\ndefault = \"ask\"\n[audit]\non_failure = \"{on_failure}\"",
        upstream.port(),
        key("the-key-of-alice"),
        key("the-key-of-bob")
    ));
    place.write("token", "the-token");
    place.write("alice.key", "the-key-of-alice");
    place.write("bob.key", "the-key-of-bob");
    let disk = OnSmallDisk::start(&place);
    let call = |who: &str, arguments: &[&str]| {
        let key = format!("{who}.key");
        let begun = Instant::now();
        let ended = place.run(&[arguments, &["--operator-key", &key]].concat());
        // A tenth of a second is allowed; a start would wait for five. The rest is a busy machine's.
        assert!(begun.elapsed() < Duration::from_secs(4), "{arguments:?} took {:?}", begun.elapsed());
        ended
    };
    let requests = |state: &str| -> Vec<(String, String)> {
        let list = call("alice", &["requests", "list", "--json"]).json();
        let of_state = list["requests"].as_array().expect("a list").iter().filter(|request| request["state"] == state);
        let named = |value: &serde_json::Value| value.as_str().expect("text").to_owned();
        of_state.map(|request| (named(&request["token"]), named(&request["id"]))).collect()
    };
    for (_, id) in requests("pending") {
        call("alice", &["requests", "approve", &id, "--reason", "looked at it"]).ok();
    }
    let granted = requests("granted").into_iter().find(|(token, _)| token == "live").expect("it is granted").1;
    call("alice", &["tokens", "quarantine", "api", "--reason", "odd use"]).ok();
    let submit = ["requests", "submit", "live", "--for", "30m", "--reason", "a hotfix"];
    call("bob", &submit).ok();
    let wish = requests("pending").remove(0).1;
    assert_eq!(asked(&place, "/live/x").0, 200);
    disk.fill(&place, || drop(call("alice", &["tokens", "list"])));

    for refused in [
        call("alice", &["requests", "approve", &wish, "--reason", "looked at it"]),
        call("bob", &submit),
        call("alice", &["tokens", "release", "api", "--reason", "it was us"]),
        call("alice", &["drill", "live", "--reason", "as each month"]),
    ] {
        let said = refused.failed(1);
        assert!(said.contains("(audit_unavailable)"), "{said}");
    }
    let (status, answer) = asked(&place, "/live/x");
    assert_eq!(status, live, "{answer}");
    assert_eq!(answer.contains("audit_unavailable"), live == 503, "{answer}");
    call("alice", &["tokens", "quarantine", "live", "--reason", "odd use"]).ok();
    assert_eq!(asked(&place, "/live/x").0, gone);
    let page = call("alice", &["requests", "deny", &granted, "--reason", "not needed"]).ok();
    assert!(page.contains("denied by alice"), "{page}");
    assert_eq!(asked(&place, "/live/x").0, gone);

    disk.empty(&place);
    assert_eq!(requests("pending").len(), 1, "the approval does not count, and nothing was submitted");
    let counted = metric(&place, "countersign_time_to_provision_seconds_count{stage=\"decision\"}");
    assert_eq!(counted.as_deref(), Some("2"), "what was refused is in no figure");
    copy(&disk.inside, &place.path("copy"));
    stop(disk.running);
    place.run(&["audit", "verify", "--dir", "copy"]).ok();
    let lines = place.run(&["audit", "show", "--dir", "copy", "--json"]).ok();
    let records: Vec<serde_json::Value> = lines.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let taken_back: Vec<&serde_json::Value> =
        records.iter().filter(|record| record["event"] == "not_done").map(|record| &record["of"]).collect();
    let for_people = place.run(&["audit", "show", "--dir", "copy", "--event", "access_granted"]).ok();
    let marked = for_people.lines().filter(|line| line.ends_with("(nothing came of it)")).count();
    let granted_in_vain =
        |record: &&serde_json::Value| record["event"] == "access_granted" && taken_back.contains(&&record["seq"]);
    assert_eq!(marked, records.iter().filter(granted_in_vain).count(), "{for_people}");
    let done = |event: &str| {
        let told = records.iter().filter(|record| record["event"] == event);
        told.filter(|record| !taken_back.contains(&&record["seq"])).count()
    };
    let counts = ["access_approved", "access_granted", "token_requested", "token_released", "drill_started"].map(done);
    assert_eq!(counts, [2, 2, 3, 0, 0], "{lines}");
    assert_eq!(["access_denied", "token_quarantined"].map(done), [1, 2], "{lines}");
}

#[test]
fn on_a_full_disk_nothing_is_let_in_all_can_be_taken_away_and_live_tokens_go_on() {
    a_full_disk_lets_nothing_in("continue", (200, 403));
}

#[test]
fn on_a_full_disk_no_request_is_let_through_where_the_config_says_so() {
    a_full_disk_lets_nothing_in("refuse", (503, 503));
}
