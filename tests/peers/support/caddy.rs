//! An upstream: Caddy, over TLS, with an access log that holds what it was sent, credentials included.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use super::certificates::Certificates;
use super::process::Process;
use super::trail::Trail;
use super::{free_port, http, tool, wait_until};

pub struct Caddy {
    /// HTTPS.
    pub address: SocketAddr,
    /// The same over plain HTTP, for what needs no proxy.
    pub plain: SocketAddr,
    pub certificates: Certificates,
    folder: TempDir,
    _process: Process,
}

impl Caddy {
    pub async fn start() -> Self {
        let folder = tempfile::tempdir().expect("temporary folder");
        let certificates = Certificates::make(folder.path());
        let address: SocketAddr = ([127, 0, 0, 1], free_port()).into();
        let plain: SocketAddr = ([127, 0, 0, 1], free_port()).into();
        let root = folder.path().display();
        std::fs::create_dir(folder.path().join("files")).expect("a folder of files");
        let config = format!(
            r#"{{
    admin off
    auto_https off
    persist_config off
    storage file_system {root}/storage
    servers {{
        log_credentials
    }}
}}
(site) {{
    bind 127.0.0.1
    log {{
        output file {root}/access.log {{
            roll_disabled
        }}
        format json
    }}
    handle /files/* {{
        root * {root}
        file_server
    }}
    handle /ending {{
        header Sunset "Thu, 31 Dec 2099 23:59:59 GMT"
        respond `{{"object":"ok"}}`
    }}
    handle {{
        respond `{{"object":"ok"}}`
    }}
}}
https://:{} {{
    tls {} {}
    import site
}}
http://:{} {{
    import site
}}
"#,
            address.port(),
            certificates.certificate.display(),
            certificates.key.display(),
            plain.port(),
        );
        let file = folder.path().join("Caddyfile");
        std::fs::write(&file, config).expect("write the Caddyfile");
        let mut command = Command::new(tool("caddy"));
        command.args(["run", "--adapter", "caddyfile", "--config"]).arg(file).env("HOME", folder.path());
        let mut process = Process::start("caddy", &command, folder.path());
        wait_until("Caddy answers", Duration::from_secs(30), async || {
            process.assert_running();
            http::get(plain, "/ready").await
        })
        .await;
        Self { address, plain, certificates, folder, _process: process }
    }

    /// Serves `content` as `/files/NAME`.
    pub fn serve(&self, name: &str, content: &[u8]) {
        std::fs::write(self.folder.path().join("files").join(name), content).expect("write a file to serve");
    }

    /// What it recorded. Its own start is not in it.
    pub fn trail(&self) -> Trail {
        Trail::of_caddy(self.log())
    }

    fn log(&self) -> PathBuf {
        self.folder.path().join("access.log")
    }
}
