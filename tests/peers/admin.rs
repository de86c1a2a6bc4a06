//! The admin API does what its own description says: schemathesis makes calls from it, good ones and bad ones, and judges
//! every answer by it.

use std::process::Command;

use crate::support::caddy::Caddy;
use crate::support::issuer::Issuer;
use crate::support::operators::key_line;
use crate::support::proxy::{Proxy, ROUTE, Settings};
use crate::support::{free_port, http, in_turn, tool};

const KEY: &str = "the-key-of-an-operator-who-may-do-everything";

/// So that the rate of an operator's calls is not what is tested.
const RATE: &str = "40/s";

/// That exactly one of two parameters has to be there, OpenAPI cannot say.
const ONE_OF_TWO: &str = "[[operations]]\n\
                          include-name = \"GET /v1/audit/proof\"\n\
                          checks.positive_data_acceptance.expected-statuses = [200, 404, 422, 429]\n";

#[test]
fn every_answer_is_as_the_description_says() {
    in_turn(async {
        let (issuer, caddy) = (Issuer::start().await, Caddy::start().await);
        let (admin, operator) = (format!("127.0.0.1:{}", free_port()), operator());
        let proxy_lines = format!("[admin]\nlisten = \"{admin}\"\n{operator}");
        let usual = Settings::between(&issuer, caddy.address, &caddy.certificates);
        let proxy = Proxy::start(&Settings { proxy_lines, ..usual }).await;
        let bearer = format!("Bearer {KEY}");
        let address = admin.parse().expect("an address");
        let described = http::get_with(address, "/openapi.json", &[("authorization", &bearer)]).await;
        let described: serde_json::Value = serde_json::from_slice(&described.expect("an answer").body).expect("JSON");
        let paths = described["paths"].as_object().expect("paths");
        // Where it has the description from, schemathesis does not call.
        let others = paths.iter().filter(|(path, _)| *path != "/openapi.json");
        let calls: usize = others.map(|(_, path)| path.as_object().map_or(0, serde_json::Map::len)).sum();
        assert!(calls >= 10, "{calls}");

        let folder = tempfile::tempdir().expect("temporary folder");
        // Of names that are made up there is no token: half of the calls are for the one that is there.
        let named = folder.path().join("named.toml");
        std::fs::write(&named, format!("[parameters]\nname = \"{ROUTE}\"\n{ONE_OF_TWO}")).expect("written");
        let any = folder.path().join("any.toml");
        std::fs::write(&any, ONE_OF_TWO).expect("written");
        for config in [any, named] {
            let mut command = Command::new(tool("schemathesis"));
            command.arg("--config-file").arg(config).args(["run", "--checks", "all", "--seed", "1"]);
            command.args(["--max-examples", "20", "--rate-limit", RATE, "--header"]);
            command.arg(format!("Authorization: {bearer}")).arg(format!("http://{admin}/openapi.json"));
            let ran = command.current_dir(folder.path()).output().expect("schemathesis runs");
            let said = String::from_utf8_lossy(&ran.stdout);
            assert!(ran.status.success(), "{said}{}", String::from_utf8_lossy(&ran.stderr));
            assert!(said.contains(&format!("{calls} selected / {calls} total")), "{said}");
        }
        let token = http::get_with(address, &format!("/v1/tokens/{ROUTE}"), &[("authorization", &bearer)]).await;
        let token: serde_json::Value = serde_json::from_slice(&token.expect("an answer").body).expect("JSON");
        assert_eq!(token["state"], "retired", "calls for the token that is there have done what they say");
        assert!(!proxy.output().contains(KEY));
    });
}

/// One with every role.
fn operator() -> String {
    let key = key_line(KEY);
    format!(
        "[[operator]]\nname = \"alice\"\n{key}\n\
         roles = [\"viewer\", \"requester\", \"approver\", \"responder\", \"admin\"]"
    )
}
