//! The proxy as a service: what its manager hears of it, the sockets that it inherits, the credentials that it is given.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;

use crate::support::{Place, until};

/// What the manager hears, message by message.
struct Manager {
    socket: UnixDatagram,
    heard: Vec<String>,
}

impl Manager {
    fn at(address: &SocketAddr) -> Self {
        let socket = UnixDatagram::bind_addr(address).expect("bound");
        socket.set_read_timeout(Some(Duration::from_millis(10))).expect("a timeout");
        Self { socket, heard: Vec::new() }
    }

    /// Waits until one of the messages since the last call of this kind has that line; returns those up to it.
    fn hears(&mut self, line: &str) -> Vec<String> {
        until(line, || {
            let mut buffer = [0; 4096];
            if let Ok(read) = self.socket.recv(&mut buffer) {
                self.heard.push(String::from_utf8(buffer[..read].to_vec()).expect("text"));
            }
            let at = self.heard.iter().position(|message| message.lines().any(|said| said.starts_with(line)))?;
            Some(self.heard.drain(..=at).collect())
        })
    }
}

#[test]
fn what_should_be_looked_at_in_a_new_config_is_said_as_at_the_start() {
    let place = Place::new("");
    let proxy = place.start();
    let config = std::fs::read_to_string(place.path("countersign.toml")).expect("the config");
    let observing =
        "[[route]]\nname = \"seen\"\nupstream = \"https://a.example\"\nallow = \"any\"\nmode = \"observe\"\n";
    place.write_config(&format!("{config}{observing}"));
    proxy.signal(Signal::HUP);
    let warned = |line: &str| line.contains("WARN") && line.contains("seen") && line.contains("only observes");
    until("the warning", || proxy.log().lines().any(warned).then_some(()));
}

#[test]
fn the_manager_hears_when_it_is_ready_reloads_and_stops_and_not_before() {
    let place = Place::new("");
    let path = place.path("notify");
    let mut manager = Manager::at(&SocketAddr::from_pathname(&path).expect("a path"));
    let mut proxy = place.spawn(place.command(&["run"]).env("NOTIFY_SOCKET", &path));
    let before = manager.hears("STATUS=not ready: token api");
    assert!(before.iter().all(|message| !message.contains("READY=1")), "{before:?}");
    place.write("token", "the-token");
    let ready = manager.hears("READY=1");
    assert_eq!(ready.last().map(String::as_str), Some("READY=1\nSTATUS=serving\n"));

    proxy.signal(Signal::HUP);
    let reloading = manager.hears("RELOADING=1");
    let last = reloading.last().expect("a message");
    let micros = last.lines().find_map(|line| line.strip_prefix("MONOTONIC_USEC=")).expect("the time");
    assert!(micros.parse::<u64>().expect("a number") > 0);
    manager.hears("READY=1");

    // A config that is refused ends the reload as well: the old one serves.
    place.write_config("[[route");
    proxy.signal(Signal::HUP);
    manager.hears("RELOADING=1");
    manager.hears("READY=1");

    proxy.signal(Signal::TERM);
    manager.hears("STOPPING=1");
    assert!(proxy.ended().success());
}

#[test]
fn the_watchdog_is_fed_over_an_abstract_socket() {
    let place = Place::new("");
    let name = format!("countersign-cli-{}", std::process::id());
    let mut manager = Manager::at(&SocketAddr::from_abstract_name(&name).expect("a name"));
    let mut command = place.command(&["run"]);
    let _proxy = place.spawn(command.env("NOTIFY_SOCKET", format!("@{name}")).env("WATCHDOG_USEC", "400000"));
    for _ in 0..3 {
        manager.hears("WATCHDOG=1");
    }
}

#[test]
fn a_watchdog_of_another_process_is_left_alone() {
    let place = Place::new("");
    place.write("token", "the-token");
    let path = place.path("notify");
    let mut manager = Manager::at(&SocketAddr::from_pathname(&path).expect("a path"));
    let mut command = place.command(&["run"]);
    command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "2000").env("WATCHDOG_PID", "1");
    let proxy = place.spawn(&mut command);
    manager.hears("READY=1");
    proxy.signal(Signal::TERM);
    let all = manager.hears("STOPPING=1");
    assert!(all.iter().all(|message| !message.contains("WATCHDOG")), "{all:?}");
}

/// The program, started by the first connection to one of these sockets.
fn activated(place: &Place, sockets: &[&str]) -> Command {
    let mut command = Command::new("systemd-socket-activate");
    for socket in sockets {
        command.args(["--listen", socket]);
    }
    let variable = |name: &str, value: &Path| format!("--setenv={name}={}", value.display());
    command
        .arg(variable("COUNTERSIGN_CONFIG", &place.path("countersign.toml")))
        .arg(variable("HOME", &place.path("")))
        .args([env!("CARGO_BIN_EXE_countersign"), "run"])
        .stdin(Stdio::null());
    command
}

/// What is answered to a request for a route that is not there.
fn ask(mut stream: impl Read + Write) -> String {
    stream.write_all(b"GET /nowhere HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer
}

#[test]
fn inherited_sockets_are_used_and_whoever_came_before_the_start_is_served() {
    let place = Place::new("");
    place.write("token", "the-token");
    let socket = place.path("proxy.sock");
    let config = std::fs::read_to_string(place.path("countersign.toml")).expect("the config");
    let tcp = format!("listen = [\"{}\"]", place.proxy);
    assert!(config.contains(&tcp));
    let both = format!("listen = [\"{}\", \"unix:proxy.sock\"]", place.proxy);
    place.write_config(&config.replace(&tcp, &both));
    let addresses = [place.proxy.to_string(), socket.display().to_string(), place.telemetry.to_string()];
    let mut proxy = place.spawn(&mut activated(&place, &addresses.each_ref().map(|address| &**address)));
    let early = until("the socket is there", || TcpStream::connect(place.proxy).ok());
    assert!(ask(early).contains("details=no_route"), "{}", proxy.log());
    assert!(ask(UnixStream::connect(&socket).expect("connects")).contains("details=no_route"));
    assert!(ask(TcpStream::connect(place.telemetry).expect("connects")).contains("/readyz"));
    proxy.signal(Signal::TERM);
    assert!(proxy.ended().success());
    assert!(socket.exists(), "the file is the service manager's");
}

#[test]
fn an_inherited_socket_that_nothing_listens_on_is_named_and_ends_the_start() {
    let place = Place::new("");
    let stray = Place::empty().proxy;
    let mut proxy = place.spawn(&mut activated(&place, &[&stray.to_string()]));
    let connection = until("the socket is there", || TcpStream::connect(stray).ok());
    assert_eq!(proxy.ended().code(), Some(1));
    drop(connection);
    assert!(proxy.log().contains(&format!("nothing in the config listens on: {stray}")), "{}", proxy.log());
}

#[test]
fn a_credential_that_systemd_hands_over_is_read_and_one_that_it_does_not_is_named() {
    let place = Place::new("");
    let config = std::fs::read_to_string(place.path("countersign.toml")).expect("the config");
    let source = r#"{ kind = "signed_jwt", key = "credential:jwt-key", algorithm = "ES256", issuer = "us", subject = "app", audience = "api" }"#;
    let from_file = r#"{ kind = "file", path = "token" }"#;
    assert!(config.contains(from_file));
    place.write_config(&config.replace(from_file, source));
    std::fs::create_dir(place.path("credentials")).expect("a folder");

    let mut command = place.command(&["run"]);
    let without = place.spawn(command.env("CREDENTIALS_DIRECTORY", place.path("credentials")));
    until("it is said", || without.log().contains("credentials/jwt-key").then_some(()));
    drop(without);

    let key = rcgen::KeyPair::generate().expect("a key").serialize_pem();
    place.write("credentials/jwt-key", &key);
    let with = place.spawn(place.command(&["run"]).env("CREDENTIALS_DIRECTORY", place.path("credentials")));
    let ended = place.run(&["wait"]);
    assert_eq!(ended.code, 0, "{}{}", ended.err, with.log());
}
