//! `[vault]`, and what is taken from there.

use super::*;

#[test]
fn a_vault_has_an_address_and_a_way_in() {
    use crate::vault::Auth as Login;
    let config = good(FULL);
    let vault = &config.vault.as_ref().expect("a vault").settings;
    assert_eq!(vault.url.to_string(), "https://vault.example.com:8200/base");
    assert_eq!(vault.namespace.as_deref(), Some("team/ci"));
    assert_eq!(vault.tls.ca.as_deref(), Some(Path::new("/etc/countersign/vault.pem")));
    let role_id = Reference::Env("ROLE_ID".to_owned());
    let secret_id = Some(Reference::File("/etc/countersign/secret-id".into()));
    assert_eq!(vault.auth, Login::AppRole { mount: "ci/approle".to_owned(), role_id, secret_id });
    assert!(config.secret_variables.iter().any(|name| name == "ROLE_ID"), "no app is given it");
    let mounted = Reference::File("/var/run/secrets/kubernetes.io/serviceaccount/token".into());
    for (auth, expected) in [
        (
            r#"{ kind = "jwt", role = "r", jwt = "file:jwt" }"#,
            Login::Jwt {
                mount: "jwt".to_owned(),
                role: "r".to_owned(),
                jwt: Reference::File("/etc/countersign/jwt".into()),
            },
        ),
        (
            r#"{ kind = "kubernetes", role = "r" }"#,
            Login::Jwt { mount: "kubernetes".to_owned(), role: "r".to_owned(), jwt: mounted },
        ),
        (r#"{ kind = "token", token = "credential:t" }"#, Login::Token(Reference::Credential("t".to_owned()))),
    ] {
        let text = format!("{GOOD}\n[vault]\nurl = \"https://vault.example\"\nauth = {auth}\n");
        assert_eq!(good(&text).vault.expect("a vault").settings.auth, expected);
    }
}

#[test]
fn what_a_vault_gives_is_named_by_path_and_field() {
    use crate::vault::Engine;
    let config = good(FULL);
    let source = |name: &str| {
        let token = config.tokens.iter().find(|token| token.name.as_str() == name);
        token.expect("a token").source.clone()
    };
    let Source::VaultKv(kv) = source("deposited") else { panic!("another source") };
    assert_eq!((&*kv.path, kv.engine, kv.version), ("secret/ci", Some(Engine::Versioned), Some(3)));
    assert_eq!((kv.every, kv.made.base64), (Duration::from_secs(300), false));
    let Source::VaultDynamic(dynamic) = source("leased") else { panic!("another source") };
    assert_eq!((&*dynamic.path, dynamic.max_life), ("rabbitmq/creds/reader", Duration::from_secs(1200)));
    assert_eq!(dynamic.made.template, "{username}:{password}".parse().expect("a template"));
    assert_eq!(dynamic.parameters, Some(vec![("ttl".to_owned(), "5m".to_owned())]));
    let shown = config.shown["token"].as_array().expect("tokens").iter().find(|token| token["name"] == "leased");
    assert_eq!(shown.expect("a token")["source"]["parameters"], "(not shown)");
    let elsewhere = good(&FULL.replace("vault.example.com", "vault.example.org"));
    let name: TokenName = "leased".parse().expect("a name");
    assert_ne!(config.terms[&name].source, elsewhere.terms[&name].source, "another vault is another source");
}
