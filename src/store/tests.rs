use std::fs::Permissions;
use std::os::unix::fs::{PermissionsExt as _, symlink};

use tempfile::TempDir;

use super::*;

const LABEL: Label<'static> = Label { kind: "request", name: "ab" };

fn folder() -> TempDir {
    tempfile::tempdir().expect("temporary folder")
}

fn open(state: &TempDir) -> Store {
    Store::open(state.path(), None).expect("opens")
}

/// The one record that there is.
fn only(store: &Store) -> (String, u64, Vec<u8>) {
    let (mut records, refused) = store.read("request").expect("readable");
    assert!(refused.is_empty(), "{refused:?}");
    assert_eq!(records.len(), 1);
    let Record { name, generation, content } = records.remove(0);
    (name, generation, content.to_vec())
}

/// What is said of the one record that there is, and that cannot be used.
fn refused(store: &Store) -> String {
    let (records, mut refused) = store.read("request").expect("readable");
    assert_eq!((records.len(), refused.len()), (0, 1));
    let Refused { path, name, why } = refused.remove(0);
    assert_eq!(name, "ab");
    assert_eq!(path.file_name(), Some(OsStr::new("request-ab.sealed")));
    assert!(path.symlink_metadata().is_ok(), "nothing is deleted");
    why.to_string()
}

fn file(state: &TempDir) -> PathBuf {
    state.path().join("sealed/request-ab.sealed")
}

#[test]
fn records_outlive_a_restart() {
    let state = folder();
    open(&state).write(LABEL, 1, b"old").expect("written");
    open(&state).write(LABEL, 2, b"new").expect("written");
    open(&state).write(Label { kind: "generation", ..LABEL }, 1, b"other").expect("written");
    assert_eq!(only(&open(&state)), ("ab".to_owned(), 2, b"new".to_vec()));
    open(&state).remove(LABEL).expect("removed");
    open(&state).remove(LABEL).expect("gone already");
    assert!(open(&state).read("request").expect("readable").0.is_empty());
}

#[test]
fn many_records_are_written_together() {
    let state = folder();
    let store = open(&state);
    for round in 1..=2 {
        let record = |number: u64| Record {
            name: format!("{number:03}"),
            generation: round,
            content: format!("{number} in round {round}").into_bytes().into(),
        };
        let records: Vec<Record> = (0..100).map(record).collect();
        store.write_all("request", &records).expect("written");
        let (found, refused) = open(&state).read("request").expect("readable");
        assert!(refused.is_empty(), "{refused:?}");
        let texts = |records: &[Record]| -> Vec<(String, u64, Vec<u8>)> {
            records.iter().map(|record| (record.name.clone(), record.generation, record.content.to_vec())).collect()
        };
        assert_eq!(texts(&found), texts(&records));
    }
    store.write_all("request", &[]).expect("nothing to write");
    std::fs::create_dir(state.path().join("sealed/request-050.new")).expect("something in the way");
    let late = |name: &str| Record { name: name.to_owned(), generation: 3, content: b"late".to_vec().into() };
    store.write_all("request", &[late("049"), late("050")]).expect_err("in the way");
    let (found, _) = open(&state).read("request").expect("readable");
    assert!(found.iter().all(|record| record.generation == 2), "one that fails keeps all back");
}

#[test]
fn all_of_it_is_for_our_eyes_only() {
    let state = folder();
    open(&state).write(LABEL, 1, b"content").expect("written");
    for (name, mode) in
        [("sealed", 0o700), ("sealed/request-ab.sealed", 0o600), ("state.key", 0o600), ("instance", 0o600)]
    {
        let found = std::fs::metadata(state.path().join(name)).expect(name).mode() & 0o777;
        assert_eq!(found, mode, "{name}");
    }
}

#[test]
fn a_crash_while_writing_leaves_what_was_there() {
    let state = folder();
    open(&state).write(LABEL, 1, b"old").expect("written");
    std::fs::write(file(&state).with_extension("new"), b"half of").expect("written");
    assert_eq!(only(&open(&state)).2, b"old");
    open(&state).write(LABEL, 2, b"new").expect("written");
    assert_eq!(only(&open(&state)).2, b"new");
}

#[test]
fn what_was_tampered_with_is_refused_by_name_and_kept() {
    let state = folder();
    open(&state).write(LABEL, 1, b"content").expect("written");
    let sealed = std::fs::read(file(&state)).expect("there");
    for at in 0..sealed.len() {
        let mut edited = sealed.clone();
        edited[at] ^= 1;
        std::fs::write(file(&state), &edited).expect("written");
        refused(&open(&state));
        std::fs::write(file(&state), &sealed[..at]).expect("written");
        refused(&open(&state));
    }
    std::fs::write(file(&state), &sealed).expect("written");
    assert_eq!(only(&open(&state)).2, b"content");
    let other = Label { name: "cd", ..LABEL };
    open(&state).write(other, 1, b"other").expect("written");
    std::fs::rename(state.path().join("sealed/request-cd.sealed"), file(&state)).expect("swapped");
    assert!(refused(&open(&state)).contains("another record under this name"));
}

#[test]
fn a_file_that_others_could_have_made_is_refused() {
    let state = folder();
    open(&state).write(LABEL, 1, b"content").expect("written");
    std::fs::set_permissions(file(&state), Permissions::from_mode(0o640)).expect("chmod");
    assert!(refused(&open(&state)).contains("0640"));
    let elsewhere = state.path().join("elsewhere");
    std::fs::set_permissions(file(&state), Permissions::from_mode(0o600)).expect("chmod");
    std::fs::rename(file(&state), &elsewhere).expect("moved");
    symlink(&elsewhere, file(&state)).expect("a link");
    refused(&open(&state));
    std::fs::remove_file(file(&state)).expect("removed");
    std::fs::create_dir(file(&state)).expect("a folder");
    std::fs::set_permissions(file(&state), Permissions::from_mode(0o700)).expect("chmod");
    assert!(refused(&open(&state)).contains("no plain file"));
}

#[test]
fn one_record_is_read_alone_and_one_that_cannot_be_trusted_stays_where_it_is() {
    let state = folder();
    let store = open(&state);
    assert!(store.read_one(LABEL).expect("readable").is_none());
    store.write(LABEL, 3, b"content").expect("written");
    std::fs::write(state.path().join("sealed/request-cd.sealed"), b"tampered").expect("written");
    let record = store.read_one(LABEL).expect("readable").expect("there");
    assert_eq!((record.name.as_str(), record.generation, record.content.as_slice()), ("ab", 3, b"content".as_slice()));
    std::fs::set_permissions(file(&state), Permissions::from_mode(0o640)).expect("chmod");
    let error = store.read_one(LABEL).err().expect("refused").to_string();
    assert!(error.contains("request-ab.sealed") && error.contains("chmod 600"), "{error}");
    std::fs::set_permissions(file(&state), Permissions::from_mode(0o600)).expect("chmod");
    assert!(store.read_one(LABEL).expect("readable").is_some());
}

#[test]
fn several_may_write_one_record_at_a_time() {
    let state = folder();
    let store = open(&state);
    let write = |number: u8| {
        for _ in 0..20 {
            store.write(LABEL, 1, &[number; 2000]).expect("written");
        }
    };
    std::thread::scope(|scope| {
        for number in 0..4 {
            scope.spawn(move || write(number));
        }
    });
    let (_, _, content) = only(&store);
    assert!(content.iter().all(|byte| *byte == content[0]), "it is one of those that were written");
}

#[test]
fn what_was_refused_is_moved_aside_when_its_name_is_needed() {
    let state = folder();
    open(&state).write(LABEL, 1, b"content").expect("written");
    std::fs::write(file(&state), b"tampered").expect("written");
    let store = open(&state);
    refused(&store);
    store.write(LABEL, 1, b"new").expect("written");
    assert_eq!(only(&store).2, b"new");
    let aside = std::fs::read(file(&state).with_extension("refused-1")).expect("kept");
    assert_eq!(aside, b"tampered");
}

#[test]
fn what_its_reader_does_not_know_is_moved_aside_when_its_name_is_needed() {
    let state = folder();
    let store = open(&state);
    store.write(LABEL, 1, b"of the future").expect("written");
    let sealed = std::fs::read(file(&state)).expect("there");
    let refused = store.refuse(LABEL);
    assert_eq!(refused.path, file(&state));
    assert!(refused.why.to_string().contains("not of the form"), "{refused:?}");
    store.write(LABEL, 1, b"new").expect("written");
    assert_eq!(only(&store).2, b"new");
    assert_eq!(std::fs::read(file(&state).with_extension("refused-1")).expect("kept"), sealed);
}

#[test]
fn a_record_of_another_installation_is_refused() {
    let (state, other) = (folder(), folder());
    open(&state).write(LABEL, 1, b"content").expect("written");
    open(&other);
    std::fs::copy(state.path().join("state.key"), other.path().join("state.key")).expect("copied");
    std::fs::copy(file(&state), file(&other)).expect("copied");
    assert!(refused(&open(&other)).contains("another installation"));
}

#[test]
fn a_key_of_the_configs_own_is_long_enough_and_makes_no_other() {
    let state = folder();
    let path = state.path().join("given");
    let key = Reference::File(path.clone());
    assert!(matches!(Store::open(state.path(), Some(&key)), Err(StoreError::Key(_))));
    std::fs::write(&path, "short").expect("written");
    assert!(matches!(Store::open(state.path(), Some(&key)), Err(StoreError::ShortKey(_))));
    std::fs::write(&path, "0123456789abcdef0123456789abcdef").expect("written");
    Store::open(state.path(), Some(&key)).expect("opens").write(LABEL, 1, b"content").expect("written");
    assert_eq!(only(&Store::open(state.path(), Some(&key)).expect("opens")).2, b"content");
    assert!(!state.path().join("state.key").exists());
    refused(&open(&state));
}

#[test]
fn a_key_or_an_instance_that_is_not_ours_stops_the_start() {
    for name in ["state.key", "instance"] {
        let state = folder();
        open(&state);
        let path = state.path().join(name);
        std::fs::set_permissions(&path, Permissions::from_mode(0o644)).expect("chmod");
        let error = Store::open(state.path(), None).err().expect("refused").to_string();
        assert!(error.contains(name) && error.contains("chmod 600"), "{error}");
        std::fs::set_permissions(&path, Permissions::from_mode(0o600)).expect("chmod");
        std::fs::write(&path, "short").expect("written");
        assert!(matches!(Store::open(state.path(), None), Err(StoreError::Content(_))));
    }
}
