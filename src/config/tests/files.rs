//! Where the config lies, and who may have written it.

use std::os::unix::fs::PermissionsExt as _;

use super::*;

/// A folder with a config in it that has this mode.
fn folder(text: &[u8], mode: u32) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("temporary folder");
    let path = folder.path().join("countersign.toml");
    std::fs::write(&path, text).expect("write");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("chmod");
    (folder, path)
}

fn own() -> Environment {
    Environment { uid: rustix::process::geteuid().as_raw(), ..environment() }
}

#[test]
fn a_file_is_read_and_its_relative_paths_start_from_its_folder() {
    let (folder, path) = folder(FULL.as_bytes(), 0o644);
    let config = Config::load(&path, &own()).expect("loads");
    assert_eq!(config.state_dir, folder.path().join("state"));
}

#[test]
fn a_file_that_others_can_write_is_refused() {
    for mode in [0o664, 0o646, 0o666] {
        let (_folder, path) = folder(GOOD.as_bytes(), mode);
        let error = Config::load(&path, &own()).expect_err("writable");
        assert!(matches!(error, LoadError::Writable { .. }));
        assert!(error.to_string().ends_with(&format!("help: chmod go-w {}", path.display())), "{error}");
    }
}

#[test]
fn behind_a_link_the_target_is_judged() {
    let (folder, path) = folder(GOOD.as_bytes(), 0o666);
    let link = folder.path().join("link.toml");
    std::os::unix::fs::symlink(&path, &link).expect("link");
    assert!(matches!(Config::load(&link, &own()), Err(LoadError::Writable { .. })));
}

#[test]
fn what_is_no_file_or_no_text_is_refused() {
    let (folder, path) = folder(b"# a\n# \xff\n", 0o600);
    let error = Config::load(&path, &own()).expect_err("no text");
    assert_eq!(error.to_json()[0]["line"], 2);
    assert_eq!(error.to_json()[0]["message"], "the file is not UTF-8 text");
    assert!(matches!(Config::load(folder.path(), &own()), Err(LoadError::NotAFile(_))));
    assert!(matches!(Config::load(&folder.path().join("none"), &own()), Err(LoadError::Missing(_))));
    std::fs::write(&path, vec![b'#'; 4 * 1024 * 1024 + 1]).expect("write");
    assert!(matches!(Config::load(&path, &own()), Err(LoadError::TooLarge(_))));
}

#[test]
fn a_file_of_another_user_is_refused() {
    let (_folder, path) = folder(GOOD.as_bytes(), 0o600);
    if own().uid == 0 {
        std::os::unix::fs::chown(&path, Some(4321), None).expect("chown");
        let error = Config::load(&path, &own()).expect_err("of another user");
        assert!(matches!(error, LoadError::Owner { owner: 4321, .. }), "{error}");
        assert_eq!(error.to_json()[0]["help"], format!("chown root {}", path.display()));
    } else {
        let other = Environment { uid: own().uid + 1, ..own() };
        assert!(matches!(Config::load(&path, &other), Err(LoadError::Owner { .. })));
    }
}

#[test]
fn the_config_is_looked_for_where_it_was_named_and_then_where_it_belongs() {
    let (folder, _) = folder(b"", 0o600);
    let ours = folder.path().join("countersign");
    std::fs::create_dir(&ours).expect("create");
    let users = ours.join("countersign.toml");
    let named = Environment { config: Some("/named".into()), ..Environment::default() };
    assert_eq!(find(Some(Path::new("asked")), &named).expect("found"), Path::new("asked"));
    assert_eq!(find(None, &named).expect("found"), Path::new("/named"));
    let environment = Environment { xdg_config_home: Some(folder.path().to_owned()), ..Environment::default() };
    let error = find(None, &environment).expect_err("not there");
    assert_eq!(error.places, [users.clone(), "/etc/countersign/countersign.toml".into()]);
    std::fs::write(&users, "").expect("write");
    assert_eq!(find(None, &environment).expect("found"), users);
}
