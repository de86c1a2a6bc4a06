//! Files: who can read what is secret, who could have written what is trusted, and whether there is room for more.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{Access, access, statvfs};

use super::Findings;
use super::people::People;
use crate::audit::Exposed;
use crate::config::{Config, Survey};
use crate::secret::Reference;

/// Room that the trail and the state soon need, in bytes.
const LITTLE_ROOM: u64 = 64 * 1024 * 1024;

pub fn look(config_file: &Path, config: &Config, survey: &Survey, people: &People, found: &mut Findings) {
    trusted("the config", config_file, people, found);
    for (place, path) in &survey.public_files {
        trusted(place, path, people, found);
    }
    for (place, reference) in &survey.secrets {
        secret(place, reference, people, found);
    }
    folder("state folder", &config.state_dir, people, found);
    if config.audit.dir != config.state_dir {
        folder("audit folder", &config.audit.dir, people, found);
    }
    room(&config.state_dir, found);
    if !config.audit.dir.starts_with(&config.state_dir) {
        room(&config.audit.dir, found);
    }
    for exposed in Exposed::of(&config.audit) {
        match exposed {
            Exposed::NoExport => found.note(exposed.to_string(), exposed.fix()),
            // Somebody thinks that it is safe there.
            Exposed::SameFilesystem { .. } => found.warning(exposed.to_string(), exposed.fix()),
        }
    }
}

/// Something that everybody may read, and that decides what is trusted.
fn trusted(what: &str, path: &Path, people: &People, found: &mut Findings) {
    let shown = path.display();
    match std::fs::metadata(path) {
        Err(error) => {
            found.problem(format!("{what}: cannot look at {shown}: {error}"), "correct the path, or its modes");
        }
        Ok(metadata) if metadata.mode() & 0o022 != 0 => {
            found.problem(format!("{what}: others than its owner can write {shown}"), format!("chmod go-w {shown}"));
        }
        Ok(metadata) if !is_trusted(&metadata, people) => {
            found.problem(format!("{what}: {shown} belongs to user {}", metadata.uid()), format!("chown root {shown}"));
        }
        Ok(_) => parent(what, path, people, found),
    }
}

/// Where a secret is, who can read it, and whether it can be read: what is read is dropped at once.
fn secret(place: &str, reference: &Reference, people: &People, found: &mut Findings) {
    if let Reference::Exec(named) = reference {
        return program(place, &named.path, people, found);
    }
    if let Reference::Vault(_) = reference {
        return found.ok(format!("{place}: {reference} was not asked for: whether it works is said of the token"));
    }
    let resolved = reference.resolve().map(drop);
    match (reference, resolved) {
        (Reference::File(path), outcome) => {
            readers(place, path, people, found);
            if let Err(error) = outcome {
                found.problem(format!("{place}: {error}"), "put the secret there, readable for the proxy's user alone");
            }
        }
        (_, Ok(())) => found.ok(format!("{place}: {reference} is there")),
        (_, Err(error)) => found.note(
            format!("{place}: {error}, as far as this process is concerned"),
            "nothing, if the proxy's own environment has it: whether it works is said of the token",
        ),
    }
}

/// A program that prints a secret. It is not run: whether it works is said of the token.
fn program(place: &str, path: &Path, people: &People, found: &mut Findings) {
    let shown = path.display();
    match std::fs::metadata(path) {
        Ok(metadata) if metadata.is_file() && metadata.mode() & 0o111 == 0 => {
            found.problem(format!("{place}: {shown} is no program that can be run"), format!("chmod u+x {shown}"));
        }
        Ok(metadata) if metadata.is_file() => {
            found.ok(format!("{place}: {shown} is there, and was not run"));
            trusted(place, path, people, found);
        }
        Ok(_) => found.problem(format!("{place}: {shown} is not a file"), "name the program itself"),
        Err(_) => trusted(place, path, people, found),
    }
}

fn readers(place: &str, path: &Path, people: &People, found: &mut Findings) {
    let Ok(metadata) = std::fs::metadata(path) else { return };
    let (mode, shown) = (metadata.mode(), path.display());
    if people.clients.contains(&metadata.uid()) && metadata.uid() != people.proxy {
        let what = format!("{place}: {shown} belongs to user {}, who is a client", metadata.uid());
        found.problem(what, format!("chown {} {shown}", people.proxy));
    } else if mode & 0o007 != 0 {
        found.problem(
            format!("{place}: every user of the machine can read {shown} (mode {:04o})", mode & 0o7777),
            format!("chmod o= {shown}"),
        );
    } else if mode & 0o020 != 0 {
        found.problem(format!("{place}: its group can write {shown}"), format!("chmod g-w {shown}"));
    } else if mode & 0o040 != 0 {
        found.note(
            format!("{place}: the group {} can read {shown}", metadata.gid()),
            format!("chmod g= {shown}, unless the proxy needs it and no app is in the group"),
        );
    } else {
        found.ok(format!("{place}: {shown} is its owner's alone"));
        parent(place, path, people, found);
    }
}

/// Whoever can write a folder can put another file in place of one in it.
fn parent(what: &str, path: &Path, people: &People, found: &mut Findings) {
    const STICKY: u32 = 0o1000;
    let Some(folder) = path.parent() else { return };
    let Ok(metadata) = std::fs::metadata(folder) else { return };
    let open = metadata.mode() & 0o022 != 0 && metadata.mode() & STICKY == 0;
    if open || !is_trusted(&metadata, people) {
        let shown = folder.display();
        let what = format!("{what}: others can replace it, since they can write its folder {shown}");
        found.problem(what, format!("chown {} {shown}; chmod go-w {shown}", people.proxy));
    }
}

/// A folder of ours, and the files right in it.
fn folder(what: &str, path: &Path, people: &People, found: &mut Findings) {
    let shown = path.display();
    let metadata = match std::fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) => {
            found.note(format!("{what}: cannot look at {shown}: {error}"), "the proxy makes it at its first start");
            return;
        }
    };
    if metadata.mode() & 0o077 != 0 {
        found.problem(
            format!("{what}: others can look into {shown} (mode {:04o})", metadata.mode() & 0o7777),
            format!("chmod go= {shown}"),
        );
    }
    if metadata.uid() != people.proxy {
        let what = format!("{what}: {shown} belongs to user {}, not to the proxy's", metadata.uid());
        found.problem(what, format!("chown {} {shown}", people.proxy));
    } else if people.own == people.proxy && access(path, Access::WRITE_OK).is_err() {
        found.problem(format!("{what}: {shown} cannot be written"), "is its file system mounted for reading only?");
    } else {
        found.ok(format!("{what}: {shown} is the proxy's"));
    }
    let files = std::fs::read_dir(path).into_iter().flatten().flatten();
    for file in files.filter_map(|entry| Some((entry.path(), entry.metadata().ok()?))) {
        let (path, metadata) = (file.0, file.1);
        if metadata.is_file() && metadata.mode() & 0o077 != 0 {
            let shown = path.display();
            found.problem(format!("{what}: others can reach {shown}"), format!("chmod go= {shown}"));
        }
    }
}

fn room(path: &Path, found: &mut Findings) {
    let Ok(volume) = statvfs(path) else { return };
    let (free, shown) = (volume.f_bavail.saturating_mul(volume.f_frsize), path.display());
    let mebibytes = free / (1024 * 1024);
    if free < LITTLE_ROOM || (volume.f_files > 0 && volume.f_favail == 0) {
        found.problem(
            format!("only {mebibytes} MiB are free where {shown} is: without room there is no trail"),
            "make room, or move the folder",
        );
    } else {
        found.ok(format!("{mebibytes} MiB are free where {shown} is"));
    }
}

/// Whether it is root's or the proxy's.
fn is_trusted(metadata: &Metadata, people: &People) -> bool {
    [0, people.proxy].contains(&metadata.uid())
}
