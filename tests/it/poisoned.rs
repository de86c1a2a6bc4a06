//! An upstream that sends a second answer a moment after the first: it may meet the next request of the same client, which
//! nothing but time could tell it from, and never one of another client.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::support::{Client, Issuer, Setup};

/// Second answers, unless `COUNTERSIGN_POISONED_TRIES` asks for more.
const TRIES: usize = 10_000;

const OTHER: u32 = 4242;

/// Which clients were seen on each connection, by what their paths begin with.
type Seen = Arc<Mutex<BTreeMap<usize, BTreeSet<u8>>>>;

/// Answers each request with its own path, and those of the poisoner with a second answer, up to 5 ms later.
async fn poison(listener: TcpListener, seen: Seen) {
    let mut serving = JoinSet::new();
    for number in 0.. {
        let (tcp, _) = listener.accept().await.expect("accepts");
        tcp.set_nodelay(true).expect("a socket");
        serving.spawn(serve(tcp, number, seen.clone()));
        while serving.try_join_next().is_some() {}
    }
}

async fn serve(mut tcp: TcpStream, number: usize, seen: Seen) {
    let mut read = Vec::new();
    loop {
        while !read.ends_with(b"\r\n\r\n") {
            match tcp.read_buf(&mut read).await {
                Ok(1..) => {}
                Ok(0) | Err(_) => return,
            }
        }
        let head = String::from_utf8(std::mem::take(&mut read)).expect("text");
        let path = head.split(' ').nth(1).expect("a path");
        let who = path.as_bytes()[1];
        seen.lock().expect("no panic").entry(number).or_default().insert(who);
        let answer = |text: &str| format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len());
        if tcp.write_all(answer(path).as_bytes()).await.is_err() {
            return;
        }
        if who == b'p' {
            tokio::time::sleep(Duration::from_micros(fastrand::u64(0..5000))).await;
            if tcp.write_all(answer("poison").as_bytes()).await.is_err() {
                return;
            }
        }
    }
}

#[tokio::test]
async fn a_second_answer_never_reaches_another_client() {
    let tries = std::env::var("COUNTERSIGN_POISONED_TRIES").map_or(TRIES, |tries| tries.parse().expect("a number"));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("binds");
    let upstream = listener.local_addr().expect("an address");
    let seen = Seen::default();
    let mut serving = JoinSet::new();
    serving.spawn(poison(listener, seen.clone()));

    let (issuer, spare) = (Issuer::start().await, crate::support::Upstream::http1().await);
    let own = rustix::process::geteuid().as_raw();
    let setup = Setup::new().token("api", &issuer, "").client("me", &format!("uid = {own}"));
    let route = format!("token = \"api\"\nupstream = \"http://{upstream}\"\ntls = {{}}");
    let scene = setup.client("other", &format!("uid = {OTHER}")).route("api", &spare, &route).start().await;

    let (left, over) = (Arc::new(AtomicUsize::new(tries)), Arc::new(AtomicBool::new(false)));
    let mut poisoners = JoinSet::new();
    for _ in 0..8 {
        poisoners.spawn(be_poisoned(scene.proxy, left.clone()));
    }
    let mut others = JoinSet::new();
    for number in 0..4 {
        others.spawn(look_at_answers(scene.proxy, number, over.clone()));
    }
    let limit = Duration::from_millis(60_000 + 12 * tries as u64);
    timeout(limit, poisoners.join_all()).await.expect("in time");
    over.store(true, Ordering::Relaxed);
    let answers: usize = others.join_all().await.into_iter().sum();
    assert!(answers > 100, "{answers} answers came between {tries} second ones");
    let connections = seen.lock().expect("no panic").clone();
    assert!(connections.values().all(|clients| clients.len() == 1), "no connection carries requests of two clients");
    assert!(connections.values().filter(|clients| clients.contains(&b'p')).count() > tries / 100);
    scene.finish().await;
}

/// Provokes second answers until none is left; its own answers may be any, since an upstream may answer it as it likes.
async fn be_poisoned(proxy: SocketAddr, left: Arc<AtomicUsize>) {
    let mut client = Client::tcp(proxy).await;
    while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok() {
        let status = client.get("/api/p").await.status;
        assert!(status == 200 || status == 502, "{status}");
    }
}

/// Asks for something else each time, and gets just that; how often.
async fn look_at_answers(proxy: SocketAddr, number: usize, over: Arc<AtomicBool>) -> usize {
    let mut client = Client::of_user(OTHER, proxy).await;
    for request in 0.. {
        if over.load(Ordering::Relaxed) {
            return request;
        }
        let answer = client.get(&format!("/api/o/{number}/{request}")).await;
        assert_eq!((answer.status, answer.text()), (200, format!("/o/{number}/{request}").as_str()));
    }
    unreachable!("requests are counted without an end")
}
