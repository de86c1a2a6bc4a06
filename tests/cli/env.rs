//! `env`

use std::process::Command;

use crate::support::Place;

/// What a shell has after it took the lines.
fn in_a_shell(lines: &str, variable: &str) -> String {
    let script = format!("{lines}\nprintf %s \"${variable}\"");
    let output = Command::new("sh").args(["-euc", &script]).env_clear().output().expect("a shell");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

#[test]
fn a_shell_takes_its_lines() {
    let place = Place::new("");
    let lines = place.run(&["env", "--for", "java"]).ok();
    assert_eq!(in_a_shell(&lines, "API_BASE_URL"), format!("http://{}/api", place.proxy));
    assert_eq!(in_a_shell(&lines, "http_proxy"), format!("http://{}", place.proxy));
    assert_eq!(in_a_shell(&lines, "NO_PROXY"), "localhost,127.0.0.1,::1");
    let properties = in_a_shell(&lines, "JAVA_TOOL_OPTIONS");
    let expected = format!("-Dhttp.proxyHost=127.0.0.1 -Dhttp.proxyPort={}", place.proxy.port());
    assert!(properties.starts_with(&expected) && properties.ends_with("localhost|127.*|[::1]"), "{properties}");
}

#[test]
fn java_is_told_of_tunnels_where_they_lead_somewhere() {
    let route = "[[route]]\nname = \"open\"\nupstream = \"https://open.example\"\nallow = \"any\"\nintercept = true";
    let place = Place::new(route);
    let lines = place.run(&["env", "--for", "java"]).ok();
    let expected = format!(" -Dhttps.proxyHost=127.0.0.1 -Dhttps.proxyPort={} ", place.proxy.port());
    assert!(in_a_shell(&lines, "JAVA_TOOL_OPTIONS").contains(&expected), "{lines}");
    assert!(lines.contains("keytool -importcert"), "{lines}");
    let without = Place::new("").run(&["env", "--for", "java"]).ok();
    assert!(!without.contains("-Dhttps.proxyHost") && !without.contains("keytool"), "{without}");
}

#[test]
fn what_would_not_work_is_not_set_but_said() {
    let lines = Place::new("").run(&["env"]).ok();
    assert!(!lines.contains("export HTTPS_PROXY") && !lines.contains("export https_proxy"), "{lines}");
    assert!(lines.contains("# HTTPS_PROXY is not set: "), "{lines}");
}

#[test]
fn each_platform_has_what_it_obeys() {
    let s3 = "[[route]]\nname = \"files\"\nupstream = \"https://s3.eu-central-1.amazonaws.com\"\nallow = \"any\"";
    let place = Place::new(s3);
    for (platform, expected) in [
        ("node", "export NODE_USE_ENV_PROXY='1'".to_owned()),
        ("python", "trust_env=True".to_owned()),
        ("go", "REQUEST_METHOD".to_owned()),
        ("aws", format!("export AWS_ENDPOINT_URL_S3='http://{}/files'", place.proxy)),
        ("curl", "curl \"$API_BASE_URL/...\"".to_owned()),
    ] {
        let lines = place.run(&["env", "--for", platform]).ok();
        assert!(lines.contains(&expected), "{platform}: {lines}");
    }
    let said = place.run(&["env", "--for", "cobol"]).failed(64);
    assert!(said.contains("node, python, go, java, aws, curl"), "{said}");
}

#[test]
fn one_route_can_be_asked_for() {
    let place = Place::new("[[route]]\nname = \"other\"\nupstream = \"https://api.example.com\"\nallow = \"any\"");
    let variables = place.run(&["env", "--route", "other", "--json"]).json()["variables"].clone();
    assert_eq!(variables["OTHER_BASE_URL"], format!("http://{}/other", place.proxy));
    assert_eq!(variables["API_BASE_URL"], serde_json::Value::Null);
    let said = place.run(&["env", "--route", "none"]).failed(64);
    assert!(said.contains("the routes are: api, other"), "{said}");
}

#[test]
fn the_variable_without_proxies_is_added_to() {
    let place = Place::new("");
    let output = place.command(&["env"]).env("NO_PROXY", ".internal").output().expect("the program runs");
    let lines = String::from_utf8(output.stdout).expect("UTF-8");
    assert_eq!(in_a_shell(&lines, "no_proxy"), ".internal,localhost,127.0.0.1,::1");
    // The child of `run` is told the same.
    for command in [vec!["env"], vec!["run", "--", "/usr/bin/env"]] {
        place.write("token", "the-token");
        let mut command = place.command(&command);
        let output = command.env("NO_PROXY", "upper").env("no_proxy", "lower").output().expect("the program runs");
        let lines = String::from_utf8(output.stdout).expect("UTF-8");
        let named = lines.lines().filter(|line| line.to_lowercase().contains("no_proxy="));
        let named: Vec<&str> = named.collect();
        assert!(named.len() == 2 && named.iter().all(|line| line.contains("upper,localhost")), "{command:?}: {lines}");
    }
}

#[test]
fn for_a_unix_socket_it_says_how() {
    let place = Place::empty();
    place.write_config(
        "[proxy]\nlisten = [\"unix:it's.sock\"]\n[[route]]\nname = \"api\"\nupstream = \"https://a.example\"\nallow = \"any\"",
    );
    let lines = place.run(&["env"]).ok();
    assert!(lines.lines().all(|line| line.starts_with("# ")), "{lines}");
    assert!(lines.contains(r"/it'\''s.sock' http://localhost/api/..."), "{lines}");
}

#[test]
fn a_port_that_is_chosen_at_the_start_is_not_guessed() {
    let place = Place::empty();
    place.write_config("[proxy]\nlisten = [\"127.0.0.1:0\"]");
    assert!(place.run(&["env"]).failed(78).contains("port 0"));
}
