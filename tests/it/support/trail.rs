//! Reads the audit trail as any other program would: lines of length, checksum and JSON.

use std::path::Path;

use serde_json::Value;

/// The records of the trail in `folder`, in order. What is being written at this moment is not there yet.
pub fn read(folder: &Path) -> Vec<Value> {
    let mut segments: Vec<(u64, std::path::PathBuf)> = std::fs::read_dir(folder)
        .expect("the folder of the trail")
        .map(|entry| entry.expect("an entry").path())
        .filter_map(|path| {
            let first = path.file_name()?.to_str()?.strip_prefix("trail-")?.strip_suffix(".log")?;
            Some((first.parse().expect("a number"), path))
        })
        .collect();
    segments.sort();
    let mut records = Vec::new();
    for (_, path) in segments {
        let text = std::fs::read_to_string(path).expect("the trail is text");
        records.extend(text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')).map(record));
    }
    for (number, record) in records.iter().enumerate() {
        assert_eq!(record["seq"], number, "the records are numbered without a gap");
    }
    records
}

fn record(line: &str) -> Value {
    let (length, rest) = line.split_once(' ').expect("a length");
    let (checksum, json) = rest.split_once(' ').expect("a checksum");
    assert_eq!(usize::from_str_radix(length, 16), Ok(json.len()), "{line}");
    assert_eq!(u32::from_str_radix(checksum, 16), Ok(crc32fast::hash(json.as_bytes())), "{line}");
    serde_json::from_str(json).expect("JSON")
}

/// The names of the events, in order.
pub fn events(records: &[Value]) -> Vec<&str> {
    records.iter().map(|record| record["event"].as_str().expect("an event")).collect()
}

/// The records of one event.
pub fn of<'r>(records: &'r [Value], event: &str) -> Vec<&'r Value> {
    records.iter().filter(|record| record["event"] == event).collect()
}
