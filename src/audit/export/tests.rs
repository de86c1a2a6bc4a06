//! Sinks that take checkpoints, fail, or do not answer.

use std::os::unix::net::UnixDatagram;

use prometheus::Registry;

use super::super::note::{Checkpoint, SigningKey};
use super::super::tree::Hash;
use super::*;
use crate::clock::SystemClock;
use crate::dial::{Destinations, Dialer};

fn note(size: u64) -> Arc<Note> {
    let key = SigningKey::new("countersign/test", &[7; 32]);
    Arc::new(key.sign(Checkpoint { size, root: Hash::of_leaf(&size.to_be_bytes()) }))
}

fn outbox(target: Target) -> Outbox {
    Outbox::new(target, &Metrics::register(&Registry::new()).expect("a new registry"))
}

fn sink(target: &Target) -> Sink {
    let fetcher = Arc::new(Fetcher::new(Arc::new(Dialer::new(Destinations::default(), Vec::new()))));
    Sink::new(target, fetcher, Arc::new(SystemClock)).expect("nothing to read")
}

fn counted(outbox: &Outbox, outcome: &str) -> u64 {
    outbox.metrics.exports.with_label_values(&[&outbox.name, outcome]).get()
}

/// Works until nothing waits.
async fn work_off(outbox: &Outbox) {
    let sink = sink(&outbox.target);
    let empty = async {
        while !outbox.lock().is_empty() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::select! {
        never = work(outbox, &sink, &SystemClock) => match never {},
        done = tokio::time::timeout(Duration::from_secs(10), empty) => done.expect("it is taken"),
    }
}

#[tokio::test]
async fn a_file_gets_each_checkpoint_as_it_was_signed() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let path = folder.path().join("checkpoints");
    let outbox = outbox(Target::File(path.clone()));
    for size in 1..=3 {
        outbox.push(&note(size));
    }
    work_off(&outbox).await;
    let text = std::fs::read_to_string(&path).expect("there");
    let sizes: Vec<u64> = Note::parse_all(&text).expect("notes").iter().map(|note| note.unverified().size).collect();
    assert_eq!(sizes, [1, 2, 3]);
    assert_eq!(counted(&outbox, SENT), 3);
    assert_eq!(outbox.metrics.exported_size.with_label_values(&[&outbox.name]).get(), 3);
}

#[tokio::test]
async fn a_log_daemon_gets_one_line_from_which_the_checkpoint_can_be_had() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let path = folder.path().join("log");
    let daemon = UnixDatagram::bind(&path).expect("a socket");
    let outbox = outbox(Target::SyslogSocket(path));
    outbox.push(&note(4711));
    work_off(&outbox).await;
    let mut bytes = [0; 2048];
    let length = daemon.recv(&mut bytes).expect("a message");
    let message = std::str::from_utf8(&bytes[..length]).expect("text");
    assert!(message.is_ascii() && !message.contains('\n'), "{message}");
    assert!(message.starts_with("<109>1 20") && message.contains(" countersign "), "{message}");
    let json = &message[message.find('{').expect("an object")..];
    let value: serde_json::Value = serde_json::from_str(json).expect("JSON");
    assert_eq!((&value["size"], &value["checkpoint"]), (&4711.into(), &note(4711).to_string().into()));
}

#[tokio::test]
async fn a_daemon_elsewhere_gets_it_by_udp() {
    let daemon = std::net::UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let outbox = outbox(Target::SyslogUdp(daemon.local_addr().expect("an address")));
    outbox.push(&note(1));
    work_off(&outbox).await;
    let mut bytes = [0; 2048];
    daemon.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
    assert!(daemon.recv(&mut bytes).expect("a message") > 100);
}

#[tokio::test(start_paused = true)]
async fn a_sink_that_fails_is_tried_again_and_older_checkpoints_give_way() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let path = folder.path().join("not/there");
    let outbox = outbox(Target::File(path.clone()));
    for size in 1..=CAPACITY as u64 + 3 {
        outbox.push(&note(size));
    }
    assert_eq!(counted(&outbox, SUPERSEDED), 3);
    let sink = sink(&outbox.target);
    let failing = async {
        while counted(&outbox, FAILED) < 5 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::select! {
        never = work(&outbox, &sink, &SystemClock) => match never {},
        () = failing => {}
    }
    assert_eq!((outbox.lock().len(), counted(&outbox, SENT)), (CAPACITY, 0));
    std::fs::create_dir(folder.path().join("not")).expect("made");
    work_off(&outbox).await;
    let text = std::fs::read_to_string(&path).expect("there");
    let sizes: Vec<u64> = Note::parse_all(&text).expect("notes").iter().map(|note| note.unverified().size).collect();
    assert!(sizes.into_iter().eq(4..=CAPACITY as u64 + 3), "those that were left, in their order");
}

#[tokio::test]
async fn a_pipe_or_a_link_is_not_written_to() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let pipe = folder.path().join("pipe");
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o600.into(), 0).expect("a pipe");
    let link = folder.path().join("link");
    std::os::unix::fs::symlink("elsewhere", &link).expect("a link");
    for path in [pipe, link] {
        assert!(sink(&Target::File(path)).send(&note(1)).await.is_err());
    }
    assert!(!folder.path().join("elsewhere").exists());
}
