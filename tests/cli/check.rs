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
fn no_secret_has_to_be_there() {
    let place = place(
        r#"url = "https://proxy.example:3128", username = "us", password = "env:NO_SUCH", tls = { cert = "file:no.pem", key = "file:no.key" }"#,
    );
    assert!(place.run(&["check"]).ok().contains("ok"));
}
