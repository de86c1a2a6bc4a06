//! A job that shows what a real OpenID provider has signed for it.

use std::time::Duration;

use crate::support::caddy::Caddy;
use crate::support::http::{self, Answer};
use crate::support::issuer::Issuer;
use crate::support::proxy::Proxy;
use crate::support::{in_turn, wait_until};

const AUDIENCE: &str = "https://api.example";

#[test]
fn a_job_is_let_in_by_what_its_issuer_signs_until_that_ends() {
    in_turn(async {
        let (issuer, caddy) = (Issuer::start().await, Caddy::start().await);
        let proxy = Proxy::between(&issuer, caddy.address, &caddy.certificates).await;
        let name = format!("http://{}", issuer.address);
        let jwt = format!(r#"{{ issuer = "{name}", audience = "{AUDIENCE}", subject = "post" }}"#);
        proxy.write_config(&format!("{}\n[[client]]\nname = \"job\"\njwt = {jwt}\n", proxy.config()));
        wait_until("the job is the only client", Duration::from_secs(30), async || {
            let answer = proxy.get("/without").await?;
            (answer.reason().as_deref() == Some("client_auth_required")).then_some(())
        })
        .await;

        let token = issuer.token(AUDIENCE);
        assert_eq!(show(&proxy, "/job", &token).await.status, 200);
        let elsewhere = issuer.token("https://other.example");
        assert_eq!(show(&proxy, "/elsewhere", &elsewhere).await.reason().as_deref(), Some("client_unknown"));
        wait_until("the job has ended", Duration::from_secs(30), async || {
            let reason = show(&proxy, "/late", &token).await.reason();
            (reason.as_deref() == Some("client_unknown")).then_some(())
        })
        .await;
        assert_eq!(show(&proxy, "/job", &issuer.token(AUDIENCE)).await.status, 200);

        let finding = caddy.trail().judge("/job", &issuer.keys().await);
        assert_eq!(finding.requests, 2);
        finding.assert_every_request_carried_a_live_token_once();
        assert_eq!(caddy.trail().judge("/elsewhere", &issuer.keys().await).requests, 0);
        assert!(!proxy.output().contains(&token), "the job's token is in the log");
    });
}

async fn show(proxy: &Proxy, path: &str, token: &str) -> Answer {
    let shown = format!("Bearer {token}");
    let answer = http::get_with(proxy.address, &format!("/api{path}"), &[("proxy-authorization", &shown)]).await;
    answer.expect("an answer")
}
