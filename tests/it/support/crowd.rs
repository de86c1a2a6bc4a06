//! Many clients at once, or clients of another user: a process of their own, with descriptors and a user of its own. It is
//! this very test binary, told by a variable what to do.
//!
//! ```text
//! test ──"ADDRESS COUNT PATH"──▶ crowd: connects ──"connected"──▶ test ──"go"──▶ crowd: requests ──"sent", "200=COUNT"──▶
//! ```

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

use super::{Client, soon};

const CONTROL: &str = "COUNTERSIGN_IT_CONTROL";

pub struct Crowd {
    child: Child,
    control: BufReader<TcpStream>,
}

impl Crowd {
    /// Opens as many connections to `proxy`; each will send one request for `path`. `user`: ours, if none is named.
    pub async fn connected(proxy: SocketAddr, count: usize, path: &str, user: Option<u32>) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("binds");
        let control = listener.local_addr().expect("an address");
        let mut command = Command::new(std::env::current_exe().expect("a path"));
        command.args(["--ignored", "--exact", "support::crowd::is_played_by_another_process"]);
        command.env(CONTROL, control.to_string()).stdout(Stdio::null()).stderr(Stdio::null());
        if let Some(user) = user {
            command.uid(user).gid(user);
        }
        let child = command.spawn().expect("a process");
        let (stream, _) = soon("the crowd", listener.accept()).await.expect("accepts");
        let mut crowd = Self { child, control: BufReader::new(stream) };
        crowd.tell(&format!("{proxy} {count} {path}")).await;
        assert_eq!(crowd.hears().await, "connected");
        crowd
    }

    /// Sends all requests; returns when they are on their way.
    pub async fn go(&mut self) {
        self.tell("go").await;
        assert_eq!(self.hears().await, "sent");
    }

    /// How often each status came.
    pub async fn answered(mut self) -> String {
        let said = self.hears().await;
        // It ends by itself now.
        let _ = self.child.wait();
        said
    }

    async fn tell(&mut self, line: &str) {
        self.control.write_all(format!("{line}\n").as_bytes()).await.expect("the crowd listens");
    }

    async fn hears(&mut self) -> String {
        let mut line = String::new();
        soon("a word of the crowd", self.control.read_line(&mut line)).await.expect("text");
        line.trim_end().to_owned()
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        // It ends when nobody tells it anything any more, and is only reaped here.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
#[ignore = "a part that another test plays in another process"]
async fn is_played_by_another_process() {
    let Ok(control) = std::env::var(CONTROL) else { return };
    raise_descriptors();
    let mut control = BufReader::new(TcpStream::connect(control).await.expect("connects"));
    let mut line = String::new();
    control.read_line(&mut line).await.expect("a line");
    let [proxy, count, path] = line.split_whitespace().collect::<Vec<_>>()[..] else { panic!("{line}") };
    let proxy: SocketAddr = proxy.parse().expect("an address");
    let mut clients = Vec::new();
    for _ in 0..count.parse().expect("a number") {
        clients.push(Client::tcp(proxy).await);
    }
    control.write_all(b"connected\n").await.expect("the test listens");
    control.read_line(&mut String::new()).await.expect("a line");
    for client in &mut clients {
        client.send(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")).await;
    }
    control.write_all(b"sent\n").await.expect("the test listens");
    let mut statuses: BTreeMap<u16, usize> = BTreeMap::new();
    for client in &mut clients {
        *statuses.entry(client.answer().await.expect("an answer").status).or_default() += 1;
    }
    let said: Vec<String> = statuses.iter().map(|(status, count)| format!("{status}={count}")).collect();
    control.write_all(format!("{}\n", said.join(" ")).as_bytes()).await.expect("the test listens");
}

/// As many descriptors as this process may have.
pub fn raise_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }).expect("up to the maximum");
}
