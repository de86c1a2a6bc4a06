//! `completions` and `man`

use std::io::Write as _;
use std::process::{Command, Stdio};

use crate::support::Place;

/// Feeds a program, which must take it without a word.
fn taken_by(program: &str, arguments: &[&str], text: &str) -> String {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("cannot run {program} ({error}): `scripts/tools.sh test` installs it"));
    let mut stdin = child.stdin.take().expect("piped");
    let text = text.to_owned();
    let writing = std::thread::spawn(move || stdin.write_all(text.as_bytes()));
    let output = child.wait_with_output().expect("it ends");
    writing.join().expect("no panic").expect("all is read");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{program} {arguments:?}: {said}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

#[test]
fn bash_completes_commands_and_options() {
    let place = Place::empty();
    let script = place.run(&["completions", "bash"]).ok();
    let complete = |words: &str, at: usize| {
        let asked = format!(
            "{script}\nCOMP_WORDS=({words}); COMP_CWORD={at}; _countersign countersign \"${{COMP_WORDS[{at}]}}\" \
             \"${{COMP_WORDS[{}]}}\"; echo \"${{COMPREPLY[@]}}\"",
            at - 1
        );
        taken_by("bash", &["-eu"], &asked)
    };
    assert_eq!(complete("countersign exp", 1), "explain\n");
    assert_eq!(complete("countersign env --for no", 3), "node\n");
}

#[test]
fn other_shells_have_a_script_too() {
    let place = Place::empty();
    for shell in ["zsh", "fish", "elvish", "powershell"] {
        assert!(place.run(&["completions", shell]).ok().contains("explain"), "{shell}");
    }
    assert!(place.run(&["completions", "tcsh"]).failed(64).contains("invalid value 'tcsh'"));
}

#[test]
fn the_manual_has_every_command() {
    let page = Place::empty().run(&["man"]).ok();
    let shown = taken_by("groff", &["-man", "-Tascii", "-P-cbou", "-ww"], &page);
    for expected in ["countersign wait", "--timeout", "countersign explain", "EXIT STATUS", "/etc/countersign"] {
        assert!(shown.contains(expected), "{expected} is not in the manual:\n{shown}");
    }
}

#[test]
fn each_command_can_have_its_own_page() {
    let place = Place::empty();
    let folder = place.path("pages");
    std::fs::create_dir(&folder).expect("a folder");
    place.run(&["man", "--dir", "pages"]).ok();
    let page = std::fs::read_to_string(folder.join("countersign-wait.1")).expect("a page for wait");
    let shown = taken_by("groff", &["-man", "-Tascii", "-P-cbou", "-ww"], &page);
    assert!(shown.contains("--timeout"), "{shown}");
    assert!(folder.join("countersign.1").is_file());
    assert!(place.run(&["man", "--dir", "nowhere"]).failed(1).contains("nowhere: No such file"));
}
