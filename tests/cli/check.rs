//! `check`

use std::fs::read_to_string;

use crate::support::Place;

/// With this way out.
fn place(upstream_proxy: &str) -> Place {
    let place = Place::new("");
    let config = read_to_string(place.path("countersign.toml")).expect("the config");
    place.write_config(&config.replacen("[proxy]", &format!("[proxy]\nupstream_proxy = {{ {upstream_proxy} }}"), 1));
    place
}

#[test]
fn a_proxy_on_the_way_out_that_run_would_not_take_is_found() {
    let place = place(r#"url = "https://proxy.example:3128", tls = { ca = "file:no.pem" }"#);
    let said = place.run(&["check"]).failed(78);
    assert!(said.contains("countersign.toml: error: upstream_proxy: cannot read") && said.contains("no.pem"), "{said}");
    let of_run = place.run(&["run"]).failed(78);
    assert_eq!(of_run.matches("cannot read").count(), 1, "each cause is said once: {of_run}");
}

#[test]
fn a_trail_that_could_be_put_back_unseen_is_told_of_and_taken() {
    const STAYS: &str = "checkpoints of the trail stay on this machine";
    const BESIDE: &str = "lies on the filesystem of the trail itself";
    let of = |export: &str| {
        let place = Place::new(&format!("[audit]\n{export}"));
        place.write("token", "the-token");
        let ended = place.run(&["check"]);
        assert_eq!(ended.code, 0, "{}", ended.err);
        let json = place.run(&["check", "--json"]).json();
        let log = {
            let running = place.start();
            place.run(&["wait"]).ok();
            running.log()
        };
        (ended.err, json, log)
    };
    for (export, words) in [("", STAYS), ("export = [\"file:checkpoints\"]", BESIDE)] {
        let (said, json, log) = of(export);
        assert_eq!(said.matches(words).count(), 1, "{said}");
        assert!(said.contains("warning") && said.contains("  help: "), "{said}");
        let told = json.as_array().expect("a list").iter().find(|each| each["message"].to_string().contains(words));
        assert_eq!(told.map(|each| &each["severity"]), Some(&"warning".into()), "{json}");
        assert_eq!(log.matches(words).count(), 1, "{log}");
    }
    // It leaves the machine, as far as we know.
    let (said, json, log) = of("export = [\"syslog:127.0.0.1:9\"]");
    for text in [said, json.to_string(), log] {
        assert!(!text.contains(STAYS) && !text.contains(BESIDE), "{text}");
    }
}

#[test]
fn no_secret_has_to_be_there() {
    let place = place(
        r#"url = "https://proxy.example:3128", username = "us", password = "env:NO_SUCH", tls = { cert = "file:no.pem", key = "file:no.key" }"#,
    );
    assert!(place.run(&["check"]).ok().contains("ok"));
}
