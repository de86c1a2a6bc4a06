//! An upstream that is a program of `tests/clients`: its first line is its port, and each further one tells of a request.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use serde::Deserialize;

use crate::support::certificates::Certificates;
use crate::support::echo::Seen;
use crate::support::process::Process;
use crate::support::{package, wait_until};

pub struct Upstream {
    pub port: u16,
    process: Process,
}

/// A line of its output.
#[derive(Deserialize)]
struct Line {
    run: u32,
    #[serde(default)]
    target: Option<String>,
    #[serde(default)]
    headers: Vec<(String, String)>,
    /// A client got a message before it acknowledged the one before.
    #[serde(default)]
    late: bool,
}

impl Upstream {
    pub async fn start(program: &str, certificates: &Certificates, folder: &Path) -> Self {
        let mut command = Command::new(package().join(".tools/clients-venv/bin/python"));
        command
            .arg(package().join("tests/clients").join(program))
            .arg(&certificates.certificate)
            .arg(&certificates.key);
        let mut process = Process::start(program, &command, folder);
        let port = wait_until("the upstream says its port", Duration::from_secs(30), async || {
            process.assert_running();
            process.output().lines().next()?.parse().ok()
        })
        .await;
        Self { port, process }
    }

    /// The requests of a run, in their order.
    pub fn seen(&self, run: u32) -> Vec<Seen> {
        let lines = self.lines(run).into_iter();
        lines
            .filter_map(|line| {
                Some(Seen {
                    run,
                    method: Method::default(),
                    target: line.target?,
                    headers: fields(line.headers),
                    body: Bytes::new(),
                })
            })
            .collect()
    }

    /// Whether a run did not show that it reads a stream while it comes.
    pub fn was_late(&self, run: u32) -> bool {
        self.lines(run).iter().any(|line| line.late)
    }

    fn lines(&self, run: u32) -> Vec<Line> {
        let output = self.process.output();
        // What else it prints is not for us.
        let lines = output.lines().filter_map(|line| serde_json::from_str::<Line>(line).ok());
        lines.filter(|line| line.run == run).collect()
    }
}

fn fields(headers: Vec<(String, String)>) -> HeaderMap {
    let name = |name: String| HeaderName::try_from(name).expect("the name of a field");
    let value = |value: String| HeaderValue::try_from(value).expect("the value of a field");
    headers.into_iter().map(|(field, text)| (name(field), value(text))).collect()
}
