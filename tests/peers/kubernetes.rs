//! A cluster, played by kmock, gives tokens of a service account (TokenRequest) to whom it lets, and takes them for as long as it
//! says.

use std::time::Duration;

use serde_json::json;

use crate::support::kubernetes::Cluster;
use crate::support::proxy::Proxy;
use crate::support::{http, in_turn, wait_until};

const SECRET: &str = "/api/v1/namespaces/billing/secrets/bill";

#[test]
fn tokens_of_a_service_account_are_had_and_replaced_before_the_cluster_takes_them_no_more() {
    in_turn(async {
        let cluster = Cluster::start(10).await;
        let own = cluster.entry(1, "own", "reader", "");
        let elsewhere = cluster.entry(2, "elsewhere", "reader", r#", audience = "https://api.example.com""#);
        let barred = cluster.entry(3, "barred", "writer", "");
        let proxy = Proxy::with(&format!("{own}{elsewhere}{barred}")).await;
        let asked = cluster.seen().await["asked"].clone();
        for wish in [
            json!({ "expirationSeconds": 600 }),
            json!({ "expirationSeconds": 600, "audiences": ["https://api.example.com"] }),
        ] {
            assert!(asked.as_array().expect("a list").contains(&wish), "{asked}");
        }
        let answer = http::get(proxy.address, &format!("/elsewhere{SECRET}")).await.expect("an answer");
        assert_eq!(answer.status, 401, "it is for another audience: {}", answer.text());
        let answer = http::get(proxy.address, &format!("/barred{SECRET}")).await.expect("an answer");
        assert_eq!(answer.status, 503, "nobody may have a token of it: {}", answer.text());

        // Over three lives of a token, nothing but 200.
        let mut answers = 0;
        wait_until("three are issued", Duration::from_secs(60), async || {
            let answer = http::get(proxy.address, &format!("/own{SECRET}")).await.expect("an answer");
            assert_eq!(answer.status, 200, "{}", answer.text());
            assert_eq!(serde_json::from_str::<serde_json::Value>(&answer.text()).expect("JSON")["data"]["a"], "Yg==");
            answers += 1;
            let metrics = proxy.metrics().await;
            metrics.lines().any(|line| line == r#"countersign_token_generation{token="own"} 4"#).then_some(())
        })
        .await;
        assert!(answers > 10, "{answers}");
    });
}
