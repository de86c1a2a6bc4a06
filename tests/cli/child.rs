//! `run -- APP`

use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::{Command, Stdio};

use rustix::process::Signal;

use crate::support::{Ended, Place, until};

/// A place whose token is there.
fn place() -> Place {
    let place = Place::new("");
    place.write("token", "the-token");
    place
}

/// `run`, with these arguments.
fn run(place: &Place, arguments: &[&str]) -> Command {
    let mut command = place.command(&["run"]);
    command.args(arguments).env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command
}

fn ended(command: &mut Command) -> Ended {
    Ended::of(command.output().expect("the program runs"))
}

/// Replaces a part of the config that is there.
fn rewrite(place: &Place, from: &str, to: &str) {
    let config = std::fs::read_to_string(place.path("countersign.toml")).expect("the config");
    assert!(config.contains(from), "{from}");
    place.write_config(&config.replace(from, to));
}

/// An app that says it is up in a file, and then waits.
fn waiting(place: &Place, more: &str) -> String {
    format!("{more} echo $$ > {}; while :; do sleep 0.02; done", place.path("up").display())
}

/// Waits until that app is up; its process.
fn is_up(place: &Place) -> String {
    until("the app is up", || std::fs::read_to_string(place.path("up")).ok().filter(|pid| pid.ends_with('\n')))
        .trim()
        .to_owned()
}

#[test]
fn the_app_is_told_where_the_proxy_is_and_no_secret() {
    let place = Place::new("");
    rewrite(&place, r#"{ kind = "file", path = "token" }"#, r#"{ kind = "env", name = "API_TOKEN" }"#);
    let mut command = run(&place, &["--", "env"]);
    command.env("API_TOKEN", "the-secret").env("COUNTERSIGN_PROXY__DRAIN", "1s").env("OTHER", "stays");
    command.env("CREDENTIALS_DIRECTORY", "/nowhere").env("NO_PROXY", "internal.example");
    let said = ended(&mut command).ok();
    let lines: Vec<&str> = said.lines().collect();
    for expected in [
        format!("API_BASE_URL=http://{}/api", place.proxy),
        format!("http_proxy=http://{}", place.proxy),
        format!("HTTP_PROXY=http://{}", place.proxy),
        "NO_PROXY=internal.example,localhost,127.0.0.1,::1".to_owned(),
        "OTHER=stays".to_owned(),
    ] {
        assert!(lines.contains(&&*expected), "{expected} in {said}");
    }
    for kept in ["the-secret", "API_TOKEN", "COUNTERSIGN_", "CREDENTIALS_DIRECTORY", "HTTPS_PROXY"] {
        assert!(!said.contains(kept), "{kept} in {said}");
    }
}

#[test]
fn the_apps_calls_carry_the_token_and_its_exit_code_is_ours() {
    let place = place();
    let upstream = TcpListener::bind("127.0.0.1:0").expect("bound");
    let address = upstream.local_addr().expect("an address");
    rewrite(&place, &format!("http://{}", place.upstream), &format!("http://{address}"));
    let serving = std::thread::spawn(move || {
        let (mut stream, _) = upstream.accept().expect("a connection");
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).expect("a head");
            head.extend(byte);
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello").expect("sent");
        String::from_utf8(head).expect("text").to_ascii_lowercase()
    });
    let script = "curl --silent --fail $API_BASE_URL/things/1; exit 7";
    let ended = ended(&mut run(&place, &["--", "sh", "-c", script]));
    assert_eq!((ended.code, &*ended.out), (7, "hello"), "{}", ended.err);
    let head = serving.join().expect("a request");
    assert!(head.contains("authorization: bearer the-token\r\n"), "{head}");
}

#[test]
fn signals_are_passed_on_and_its_end_by_one_is_told_as_a_shell_would() {
    let place = place();
    let app = waiting(&place, "trap 'exit 3' USR1;");
    let mut proxy = place.spawn(&mut run(&place, &["--", "sh", "-c", &app]));
    is_up(&place);
    // The proxy's own.
    proxy.signal(Signal::HUP);
    until("the reload", || proxy.log().contains("a new configuration is in force").then_some(()));
    proxy.signal(Signal::USR1);
    assert_eq!(proxy.ended().code(), Some(3));

    std::fs::remove_file(place.path("up")).expect("removed");
    let mut proxy = place.spawn(&mut run(&place, &["--", "sh", "-c", &waiting(&place, "")]));
    is_up(&place);
    proxy.signal(Signal::TERM);
    assert_eq!(proxy.ended().code(), Some(128 + 15));
    assert!(proxy.log().contains("the app's end"), "{}", proxy.log());
}

#[test]
fn an_app_without_its_tokens_is_not_started() {
    let place = Place::new("");
    let arguments = ["--wait-timeout", "200ms", "--", "touch", "started"];
    let said = ended(&mut run(&place, &arguments)).failed(69);
    assert!(said.contains("touch is not started: the proxy is not ready: token api\n"), "{said}");
    let mut proxy = place.spawn(&mut run(&place, &["--", "touch", "started"]));
    until("it runs", || proxy.log().contains("countersign runs").then_some(()));
    proxy.signal(Signal::TERM);
    assert_eq!(proxy.ended().code(), Some(128 + 15));
    assert!(!place.path("started").exists());
}

#[test]
fn the_app_has_as_few_descriptors_as_without_us() {
    let place = place();
    let mut command = Command::new("sh");
    let script = format!("ulimit -Sn 321; exec {} run -- sh -c 'ulimit -Sn'", env!("CARGO_BIN_EXE_countersign"));
    command.args(["-c", &script]).env("COUNTERSIGN_CONFIG", place.path("countersign.toml")).stdin(Stdio::null());
    assert_eq!(ended(&mut command).ok(), "321\n");
}

#[test]
fn the_app_is_of_the_user_that_is_named_and_of_no_other_group() {
    let place = place();
    let script = "echo $(id -u) $(id -g) $(id -G) $HOME";
    let nobody = ended(&mut run(&place, &["--user", "nobody", "--", "sh", "-c", script])).ok();
    let [uid, gid, groups, home] = nobody.split_whitespace().collect::<Vec<_>>()[..] else { panic!("{nobody}") };
    assert_eq!((uid, groups), ("65534", gid));
    assert_eq!(home, "/nonexistent", "the user's own");
    let mut stranger = place.spawn(&mut run(&place, &["--user", "nobody", "--", "true"]));
    assert!(stranger.ended().success());
    assert!(stranger.log().contains("no [[client]] is of the app's user"), "{}", stranger.log());
    let numbers = ended(&mut run(&place, &["--user", "4711:4712", "--", "sh", "-c", script])).ok();
    assert!(numbers.starts_with("4711 4712 4712 "), "{numbers}");
    let said = ended(&mut run(&place, &["--user", "nobody-at-all", "--", "true"])).failed(64);
    assert!(said.contains("there is no user `nobody-at-all`"), "{said}");
    ended(&mut run(&place, &["--user", "nobody"])).failed(64);
}

#[test]
fn only_root_gives_the_app_another_user() {
    let place = place();
    let mut command = Command::new("setpriv");
    command.args(["--reuid", "65534", "--clear-groups", "--regid", "65534"]).stdin(Stdio::null());
    // A folder that another user may not enter does not matter: it is judged first.
    let program = place.path("countersign");
    std::fs::copy(env!("CARGO_BIN_EXE_countersign"), &program).expect("copied");
    open(&place);
    command.arg(program).args(["run", "--user", "root", "--", "true"]);
    let said = ended(&mut command).failed(77);
    assert!(said.contains("only root may run the app as another user"), "{said}");
}

/// Lets any user enter the place.
fn open(place: &Place) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(place.path(""), std::fs::Permissions::from_mode(0o755)).expect("a mode");
}

#[test]
fn an_app_that_is_not_there_is_told_as_a_shell_would() {
    let place = place();
    let said = ended(&mut run(&place, &["--", "no-such-program"])).failed(127);
    assert!(said.contains("cannot run no-such-program"), "{said}");
    let said = ended(&mut run(&place, &["--", "/etc/passwd"])).failed(126);
    assert!(said.contains("cannot run /etc/passwd"), "{said}");
}

#[test]
fn the_app_does_not_outlive_the_proxy() {
    let place = place();
    let mut proxy = place.spawn(&mut run(&place, &["--", "sh", "-c", &waiting(&place, "trap '' TERM;")]));
    let pid = is_up(&place);
    proxy.signal(Signal::KILL);
    proxy.ended();
    until("the app is gone", || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
        // Whoever inherits it may take its time to look after it.
        stat.map_or(true, |stat| stat.contains(") Z ")).then_some(())
    });
}
