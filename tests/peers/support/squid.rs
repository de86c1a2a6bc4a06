//! A company's proxy: Squid, which opens tunnels to one name for whoever has the password, and writes down what it is asked.

use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use super::process::Process;
use super::{free_port, tool, wait_until};

/// The one name that it leads to. No resolver knows it but Squid's own.
pub const HOST: &str = "api.test";

pub const USERNAME: &str = "countersign";
pub const PASSWORD: &str = "through-squid";

/// `openssl passwd -apr1 through-squid`
const PASSWORD_HASH: &str = "$apr1$peerssal$1gVgtMv5EI29v0WLIb5jJ.";

pub struct Squid {
    pub address: SocketAddr,
    folder: TempDir,
    _process: Process,
}

impl Squid {
    pub async fn start() -> Self {
        let folder = tempfile::tempdir().expect("temporary folder");
        // Started as root, it becomes another user, who has to write its logs.
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o777)).expect("an open folder");
        let address: SocketAddr = ([127, 0, 0, 1], free_port()).into();
        let root = folder.path().display();
        let write = |name: &str, text: String| std::fs::write(folder.path().join(name), text).expect("written");
        write("hosts", format!("127.0.0.1 {HOST}\n"));
        write("passwords", format!("{USERNAME}:{PASSWORD_HASH}\n"));
        let config = format!(
            r#"http_port {address}
hosts_file {root}/hosts
pid_filename none
cache_log {root}/cache.log
access_log stdio:{root}/access.log
cache_store_log none
cache deny all
coredump_dir {root}
pinger_enable off
shutdown_lifetime 0 seconds
visible_hostname squid.test
auth_param basic program /usr/lib/squid/basic_ncsa_auth {root}/passwords
auth_param basic children 1
acl known proxy_auth REQUIRED
acl api dstdomain {HOST}
http_access deny !CONNECT
http_access deny !api
http_access allow known
http_access deny all
"#
        );
        write("squid.conf", config);
        let mut command = Command::new(tool("squid"));
        command.arg("-N").arg("-f").arg(folder.path().join("squid.conf"));
        let mut process = Process::start("squid", &command, folder.path());
        wait_until("Squid listens", Duration::from_secs(60), async || {
            process.assert_running();
            TcpStream::connect(address).ok()
        })
        .await;
        Self { address, folder, _process: process }
    }

    /// What it was asked, a line each; a tunnel has one when it has ended.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("access.log")).unwrap_or_default()
    }
}
