//! What is shipped beside the program is checked by the tools that will read it.

#[path = "shipped/dashboard.rs"]
mod dashboard;
#[path = "shipped/rules.rs"]
mod rules;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use countersign::config::{Config, Environment};
use countersign::proxy::Address;

/// In tenths: systemd calls 2.0 and less a service that is well kept apart.
const HIGHEST_EXPOSURE: &str = "20";

#[test]
fn the_systemd_units_are_understood_whole() {
    let unit = unit_that_starts_a_program_that_exists();
    let socket = unit.path.with_extension("socket");
    std::fs::write(&socket, shipped("deploy/countersign.socket")).expect("write the unit");
    for path in [&unit.path, &socket] {
        let output = systemd_analyze(&["verify", "--man=no"], path);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.is_empty(), "{said}");
    }
}

#[test]
fn the_socket_unit_listens_where_the_proxy_does_by_default() {
    let config = Config::parse("", "empty.toml", Path::new("/"), &environment()).expect("a good config");
    let Some(Address::Tcp(address)) = config.proxy.listen.first() else { panic!("no address") };
    let line = format!("ListenStream={address}");
    assert!(shipped("deploy/countersign.socket").lines().any(|said| said == line), "{line}");
}

#[test]
fn the_systemd_unit_keeps_the_service_apart() {
    let unit = unit_that_starts_a_program_that_exists();
    let threshold = format!("--threshold={HIGHEST_EXPOSURE}");
    let output = systemd_analyze(&["security", "--offline=true", "--no-pager", &threshold], &unit.path);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn the_image_is_built_with_the_version_of_rust_that_the_manifest_asks_for() {
    let manifest = shipped("Cargo.toml");
    let version = manifest.lines().find_map(|line| line.strip_prefix("rust-version = ")).expect("rust-version");
    let image = format!("FROM rust:{}-", version.trim_matches('"'));
    assert!(shipped("deploy/Dockerfile").contains(&image), "deploy/Dockerfile has no line {image}...");
}

#[test]
fn the_image_is_built_from_all_that_the_program_is_built_from() {
    let ignored = shipped(".dockerignore");
    let included = shipped("src/demo.rs");
    let (_, from) = included.split_once("include_str!(\"../").expect("the demo's config");
    let (folder, _) = from.split_once('/').expect("a folder");
    for needed in [".cargo", "build.rs", "link", "Cargo.toml", "Cargo.lock", "src", "benches", "tests", folder] {
        assert!(ignored.lines().any(|line| line == format!("!{needed}")), ".dockerignore keeps {needed} out");
    }
}

#[test]
fn the_config_of_the_readme_has_no_problem_but_that_its_app_is_the_proxys_own_user() {
    let readme = shipped("README.md");
    let (_, from) = readme.split_once("<<'EOT'\n").expect("a here-document");
    let (config, _) = from.split_once("\nEOT\n").expect("its end");
    let config =
        Config::parse(config, "countersign.toml", Path::new("/home/you"), &environment()).expect("a good config");
    assert_eq!(config.warnings.len(), 1, "{}", config.warnings);
    assert_eq!((config.tokens.len(), config.routes.len()), (1, 1));
}

/// Of somebody who tries it.
fn environment() -> Environment {
    Environment {
        home: Some("/home/you".into()),
        uid: 1000,
        cores: 2,
        now: Duration::from_secs(1_795_000_000),
        ..Environment::default()
    }
}

/// The shipped unit, in a folder of its own, which goes with it.
struct Unit {
    path: PathBuf,
    _folder: tempfile::TempDir,
}

/// systemd looks whether the program of `ExecStart=` is there, and a build machine has not installed it.
fn unit_that_starts_a_program_that_exists() -> Unit {
    let folder = tempfile::tempdir().expect("temporary folder");
    let path = folder.path().join("countersign.service");
    let shipped = shipped("deploy/countersign.service");
    let installed = "ExecStart=/usr/bin/countersign ";
    assert!(shipped.contains(installed), "deploy/countersign.service has no {installed}");
    std::fs::write(&path, shipped.replace(installed, "ExecStart=/bin/sh ")).expect("write the unit");
    Unit { path, _folder: folder }
}

fn shipped(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("cannot read {}: {error}", path.display()))
}

fn systemd_analyze(arguments: &[&str], unit: &Path) -> Output {
    Command::new("systemd-analyze").args(arguments).arg(unit).env("SYSTEMD_COLORS", "0").output().unwrap_or_else(
        |error| {
            panic!(
                "cannot run systemd-analyze ({error}): `scripts/tools.sh test` installs it, or: apt-get install systemd"
            )
        },
    )
}
