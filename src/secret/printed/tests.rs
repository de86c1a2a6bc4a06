use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use super::super::Reference;
use super::*;
use crate::program::ProgramError;

/// As the config would say it.
fn reference(text: &str) -> Reference {
    Reference::parse(text, Path::new("/")).unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// A program that prints this: what stands in a file.
fn printing(content: &str) -> (tempfile::NamedTempFile, Reference) {
    let file = tempfile::NamedTempFile::new().expect("a file");
    fs::write(&file, content).expect("written");
    let reference = reference(&format!("exec:/bin/cat {}", file.path().display()));
    (file, reference)
}

/// A script, which stands in one argument, as no reference can have it.
fn script(script: &str, timeout: Duration) -> Reference {
    let arguments = vec!["-c".to_owned(), script.to_owned()];
    Reference::Exec(Box::new(Program { path: "/bin/sh".into(), arguments, variables: Vec::new(), timeout }))
}

#[tokio::test]
async fn the_first_line_that_a_program_prints_is_the_secret() {
    for content in ["abc", "abc\n", "abc\r\n", "abc\nuser: ci\n"] {
        let (_file, reference) = printing(content);
        let secret = reference.obtain().await.unwrap_or_else(|error| panic!("{content:?}: {error}"));
        assert!(secret.same_as(&Secret::new("abc")), "{content:?}");
    }
}

#[tokio::test]
async fn a_document_is_all_that_a_program_prints() {
    let (_file, reference) = printing("-----BEGIN\nabc\n-----END\n");
    let document = reference.obtain_document().await.expect("it prints one");
    assert!(document.same_as(&Secret::new("-----BEGIN\nabc\n-----END")));
}

#[tokio::test]
async fn what_changes_is_seen_the_next_time() {
    let (file, reference) = printing("first\n");
    assert!(reference.obtain().await.expect("a secret").same_as(&Secret::new("first")));
    fs::write(&file, "second\n").expect("written");
    assert!(reference.obtain().await.expect("a secret").same_as(&Secret::new("second")));
}

#[tokio::test]
async fn a_program_that_fails_or_says_nothing_is_named_and_not_quoted() {
    for (text, expected) in [
        ("echo canary; echo canary >&2; exit 3", "/bin/sh ended with code 3, and what it printed is not used"),
        ("echo; echo canary", "/bin/sh printed no secret: it is empty, or its first line is"),
        ("true", "/bin/sh printed no secret: it is empty, or its first line is"),
        ("yes canary", "/bin/sh was killed: it wrote more than 64 KiB"),
    ] {
        let outcome = script(text, TIMEOUT).obtain().await;
        assert_eq!(outcome.err().expect("no secret").to_string(), expected, "{text}");
    }
}

#[tokio::test]
async fn one_that_hangs_is_killed_and_named() {
    let outcome = script("echo canary; exec sleep 1000", Duration::from_millis(100)).obtain().await;
    let error = outcome.err().expect("no secret");
    assert!(matches!(error, ResolveError::Program(ProgramError::Timeout { .. })), "{error}");
    assert!(error.to_string().starts_with("/bin/sh was killed"), "{error}");
}

#[tokio::test]
async fn one_that_others_can_write_is_not_run() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("program");
    fs::copy("/bin/echo", &path).expect("copied");
    fs::set_permissions(&path, Permissions::from_mode(0o757)).expect("changed");
    let error = reference(&format!("exec:{} canary", path.display())).obtain().await.err().expect("no secret");
    assert!(matches!(error, ResolveError::Program(ProgramError::Writable { .. })), "{error}");
}

#[test]
fn a_reference_is_split_at_spaces_and_its_arguments_are_not_shown() {
    let Reference::Exec(program) = reference("exec:/bin/secret  ci \"a b\"") else { panic!("a program") };
    assert_eq!((program.path.as_path(), program.timeout), (Path::new("/bin/secret"), TIMEOUT));
    assert_eq!(program.arguments, ["ci", "\"a", "b\""], "no quoting");
    assert_eq!(Reference::Exec(program).to_string(), "exec:/bin/secret");
}

#[test]
fn what_is_no_absolute_path_or_holds_control_characters_is_refused() {
    for (text, expected) in [
        ("exec:secret ci", ReferenceError::ProgramPath),
        ("exec: /bin/secret", ReferenceError::ProgramPath),
        ("exec: ", ReferenceError::ProgramPath),
        ("exec:", ReferenceError::Empty),
        ("exec:/bin/secret a\0", ReferenceError::ProgramText),
        ("exec:/bin/secret\nci", ReferenceError::ProgramText),
    ] {
        assert_eq!(Reference::parse(text, Path::new("/")), Err(expected), "{text:?}");
    }
}

#[test]
fn nothing_is_run_where_a_secret_is_read_at_once() {
    let (_file, reference) = printing("abc");
    assert!(matches!(reference.resolve(), Err(ResolveError::NotRun(_))));
}
