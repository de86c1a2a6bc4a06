//! A GitHub App: its JWT is verified by another library than ours, and what its tokens may is held by the API.

use std::time::Duration;

use serde_json::json;

use crate::support::github::Github;
use crate::support::proxy::Proxy;
use crate::support::{http, in_turn, wait_until};

#[test]
fn an_installations_token_is_bought_with_a_jwt_and_narrowed_to_what_was_asked_for() {
    in_turn(async {
        let github = Github::start(3600).await;
        let narrow = github.entry(1, "narrow", "app", r#"["contents:read"]"#, r#", repositories = ["api"]"#);
        let wide = github.entry(2, "wide", "app", r#"["contents:write", "issues:read"]"#, "");
        let proxy = Proxy::with(&format!("{narrow}{wide}")).await;
        for (path, status) in [
            ("/narrow/repos/org/api/contents/README", 200),
            ("/narrow/repos/org/web/contents/README", 404),
            ("/narrow/repos/org/api/issues", 403),
            ("/wide/repos/org/web/contents/README", 200),
            ("/wide/repos/org/api/issues", 200),
        ] {
            let answer = http::get(proxy.address, path).await.expect("an answer");
            assert_eq!(answer.status.as_u16(), status, "{path}: {}", answer.text());
        }
        let seen = github.seen().await;
        assert_eq!(seen["refused"], json!([]));
        let asked = seen["asked"].as_array().expect("a list");
        assert!(asked.contains(&json!({ "permissions": { "contents": "read" }, "repositories": ["api"] })), "{seen}");
        assert!(asked.contains(&json!({ "permissions": { "contents": "write", "issues": "read" } })), "{seen}");

        // A generation that was replaced is void at GitHub.
        let (code, printed) = proxy.run(&["tokens", "rotate", "narrow"]);
        assert_eq!(code, Some(0), "{printed}");
        wait_until("GitHub is told", Duration::from_secs(20), async || {
            let seen = github.seen().await;
            (seen["voided"] == 1 && seen["live"] == 2).then_some(())
        })
        .await;
        assert_eq!(http::get(proxy.address, "/narrow/repos/org/api/contents/x").await.expect("an answer").status, 200);
    });
}

#[test]
fn github_gives_nothing_for_a_key_that_is_not_the_apps_nor_more_than_the_app_has() {
    in_turn(async {
        let github = Github::start(3600).await;
        let forged = github.entry(1, "forged", "other", r#"["contents:read"]"#, "");
        let greedy = github.entry(2, "greedy", "app", r#"["administration:write"]"#, "");
        let stranger = github.entry(3, "stranger", "app", r#"["contents:read"]"#, r#", repositories = ["secret"]"#);
        let fine = github.entry(4, "fine", "app", r#"["contents:read"]"#, "");
        let optional = |entry: String| entry.replace("\nscopes", "\nrequired = false\nscopes");
        let entries = [forged, greedy, stranger].map(optional).concat() + &fine;
        let proxy = Proxy::with(&entries).await;
        for name in ["forged", "greedy", "stranger"] {
            let refused = wait_until("the refusal", Duration::from_secs(20), async || {
                let answer = http::get(proxy.address, &format!("/{name}/repos/org/api/contents/x")).await?;
                (answer.reason().as_deref() != Some("token_pending")).then_some(answer)
            })
            .await;
            assert_eq!(refused.status, 503, "{name}: {}", refused.text());
        }
        let seen = github.seen().await;
        let refused: Vec<&str> =
            seen["refused"].as_array().expect("a list").iter().filter_map(|why| why.as_str()).collect();
        assert!(refused.iter().any(|why| why.starts_with("401 A JSON web token could not be decoded")), "{refused:?}");
        assert!(refused.iter().any(|why| why.starts_with("422 The permissions requested")), "{refused:?}");
        assert!(refused.iter().any(|why| why.starts_with("422 There is at least one repository")), "{refused:?}");
        assert_eq!(http::get(proxy.address, "/fine/repos/org/api/contents/x").await.expect("an answer").status, 200);
    });
}
