//! Services of one user, told apart by what the kernel says of their control groups.

use std::path::Path;
use std::process::{Command, Output};

use crate::support::caddy::Caddy;
use crate::support::issuer::Issuer;
use crate::support::proxy::{Proxy, ROUTE, Settings};
use crate::support::{in_turn, tool};

const GROUP: &str = "countersign-peers";

/// Mounts the groups where nobody else sees it, and runs a command in one of them.
const IN_A_GROUP: &str = r#"
mount -t cgroup2 none "$1" && mkdir -p "$1/$2" || exit 99
sh -c 'echo $$ > "$0/cgroup.procs" && exec "$@"' "$1/$2" "${@:3}"
code=$?
cd "$1" && rmdir -p "$2"
exit $code
"#;

#[test]
fn a_service_is_known_by_its_control_group_and_another_of_its_user_is_not() {
    in_turn(async {
        let (issuer, caddy) = (Issuer::start().await, Caddy::start().await);
        let usual = Settings::between(&issuer, caddy.address, &caddy.certificates);
        let proxy_lines = format!("[[client]]\nname = \"service\"\ncgroup = \"/{GROUP}/app\"\n");
        let proxy = Proxy::start(&Settings { proxy_lines, ..usual }).await;
        for (group, path, status) in [
            (format!("{GROUP}/app"), "/first", "200"),
            (format!("{GROUP}/app/worker"), "/second", "200"),
            (format!("{GROUP}/apple"), "/third", "403"),
            (GROUP.to_owned(), "/fourth", "403"),
        ] {
            let answer = called(&proxy.socket, &format!("/{ROUTE}{path}"), &group);
            let (said, printed) = (String::from_utf8_lossy(&answer.stderr), String::from_utf8_lossy(&answer.stdout));
            assert_eq!(printed, status, "{group}: {said}");
            let finding = caddy.trail().judge(path, &issuer.keys().await);
            assert_eq!(finding.requests, u64::from(status == "200"), "{group}");
            if status == "200" {
                finding.assert_every_request_carried_a_live_token_once();
            }
        }
        // Where the kernel tells a user alone, there is no such client.
        let by_port = proxy.get("/fifth").await.expect("an answer");
        assert_eq!(by_port.status, 403);
    });
}

/// A call over a unix socket by a process of this control group: the answer's status.
fn called(socket: &Path, path: &str, group: &str) -> Output {
    let folder = tempfile::tempdir().expect("temporary folder");
    let mut command = Command::new(tool("unshare"));
    command.args(["--mount", "--", "bash", "-c", IN_A_GROUP, "bash"]).arg(folder.path()).arg(group);
    command.arg(tool("curl")).args(["--silent", "--show-error", "--max-time", "30", "--output", "/dev/null"]);
    command.args(["--write-out", "%{http_code}", "--unix-socket"]).arg(socket);
    command.arg(format!("http://localhost{path}")).output().expect("curl runs")
}
