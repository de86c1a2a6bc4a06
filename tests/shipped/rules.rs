//! The alerts, and the runbooks they lead to.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use super::shipped;

const RUNBOOKS: &str = "docs/runbooks/";

#[test]
fn each_alert_is_raised_by_its_cause_and_by_nothing_else() {
    for arguments in [["check", "rules", "rules.yaml"], ["test", "rules", "rules_test.yaml"]] {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/prometheus");
        let ran = Command::new("promtool").args(arguments).current_dir(folder).output().unwrap_or_else(|error| {
            panic!("cannot run promtool ({error}): `scripts/tools.sh test` installs it, or: apt-get install prometheus")
        });
        let said = [ran.stdout, ran.stderr].concat();
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&said));
    }
    let tests = shipped("deploy/prometheus/rules_test.yaml");
    for Alert { name, .. } in alerts() {
        let test = tests.split("  - interval: ").find(|test| test.contains(&format!("alertname: {name}\n")));
        let test = test.unwrap_or_else(|| panic!("no test looks for {name}"));
        assert!(test.contains("exp_labels") && test.contains("instance=\"good\""), "{name} is tested one way only");
        assert!(!test.contains("instance: good"), "{name} is raised where nothing is wrong");
    }
}

#[test]
fn each_alert_leads_to_a_runbook_of_its_own() {
    let mut there: BTreeSet<String> = runbooks().collect();
    for Alert { name, runbook } in alerts() {
        assert!(there.remove(&runbook), "{name}: there is no {runbook}, or another alert leads there");
        assert_eq!(shipped(&runbook).lines().next(), Some(format!("# {name}").as_str()), "{runbook}");
    }
    assert!(there.is_empty(), "no alert leads to {there:?}");
}

#[test]
fn each_command_of_a_runbook_is_one_that_the_program_has() {
    let mut commands = 0;
    for runbook in runbooks() {
        for words in commands_of(&shipped(&runbook)) {
            commands += 1;
            // Where the command line is understood so far, help is what it ends with.
            let mut command = Command::new(env!("CARGO_BIN_EXE_countersign"));
            let ran = command.args(&words).arg("--help").output().expect("the program runs");
            let said = String::from_utf8_lossy(&ran.stderr);
            assert!(ran.status.success(), "{runbook}: countersign {}: {said}", words.join(" "));
        }
    }
    assert!(commands > 40, "{commands}");
}

#[test]
fn the_links_of_the_runbooks_lead_somewhere() {
    let mut links = 0;
    for runbook in runbooks() {
        for link in shipped(&runbook).split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next()) {
            let target = Path::new(env!("CARGO_MANIFEST_DIR")).join(RUNBOOKS).join(link);
            assert!(target.is_file(), "{runbook}: {link}");
            links += 1;
        }
    }
    assert!(links > 10, "{links}");
}

struct Alert {
    name: String,
    runbook: String,
}

fn alerts() -> Vec<Alert> {
    let rules = shipped("deploy/prometheus/rules.yaml");
    let alerts: Vec<Alert> = rules
        .split("- alert: ")
        .skip(1)
        .map(|alert| {
            let runbook = alert.lines().find_map(|line| line.trim().strip_prefix("runbook_url: "));
            let name = alert.lines().next().unwrap_or_default().to_owned();
            let runbook = runbook.unwrap_or_else(|| panic!("{name} has no runbook")).to_owned();
            Alert { name, runbook }
        })
        .collect();
    assert!(alerts.len() > 10, "{} alerts", alerts.len());
    alerts
}

fn runbooks() -> impl Iterator<Item = String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(RUNBOOKS);
    let files = std::fs::read_dir(folder).expect("the runbooks");
    files.map(|file| format!("{RUNBOOKS}{}", file.expect("a file").file_name().display()))
}

/// The arguments of each `countersign ...`, in a block or in a line, with names in the place of what stands for them.
fn commands_of(runbook: &str) -> Vec<Vec<String>> {
    let in_lines = runbook.split('`').skip(1).step_by(2);
    let lines = runbook.lines().chain(in_lines).filter_map(|line| line.strip_prefix("countersign "));
    lines
        .map(|line| {
            let line = line.split(" #").next().unwrap_or_default();
            let line = line.split(" > ").next().unwrap_or_default();
            let named = [("TOKEN", "github"), ("CLIENT", "billing"), ("ROUTE", "github"), ("ID", "8c1f0e7ab2d94c10")];
            let line = named.iter().fold(line.to_owned(), |line, (stands, name)| line.replace(stands, name));
            // What is quoted is one word.
            let (mut words, mut is_quoted) = (vec![String::new()], false);
            for character in line.trim().chars() {
                match character {
                    '"' => is_quoted = !is_quoted,
                    ' ' if !is_quoted => words.push(String::new()),
                    _ => words.last_mut().expect("there is one").push(character),
                }
            }
            words.retain(|word| !word.is_empty());
            words
        })
        .collect()
}
