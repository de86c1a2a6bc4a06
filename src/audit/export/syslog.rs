//! A checkpoint as a message of syslog (RFC 5424): one line of ASCII, with the note as a string of JSON, from which it can be had
//! byte for byte.

use super::super::note::Note;
use crate::clock::Moment;

/// Facility 13, log audit; severity 5, notice.
const PRIORITY: u8 = 13 * 8 + 5;

/// `<109>1 TIME - countersign PID checkpoint - {"size":4711,"checkpoint":"…"}`
pub fn message(note: &Note, now: Moment) -> Vec<u8> {
    let pid = std::process::id();
    let text = serde_json::Value::from(note.to_string()).to_string().replace('\u{2014}', "\\u2014");
    let size = note.unverified().size;
    let time = now.to_rfc3339();
    format!(r#"<{PRIORITY}>1 {time} - countersign {pid} checkpoint - {{"size":{size},"checkpoint":{text}}}"#)
        .into_bytes()
}
