//! An upstream: nginx, over TLS, which closes connections early and often, and takes files by `PUT`.

use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use super::certificates::Certificates;
use super::process::Process;
use super::trail::Trail;
use super::{free_port, tool, wait_until};

/// Requests after which nginx closes a connection.
pub const REQUESTS_PER_CONNECTION: u64 = 50;

pub struct Nginx {
    pub address: SocketAddr,
    pub certificates: Certificates,
    folder: TempDir,
    _process: Process,
}

impl Nginx {
    pub async fn start() -> Self {
        let folder = tempfile::tempdir().expect("temporary folder");
        let certificates = Certificates::make(folder.path());
        let address: SocketAddr = ([127, 0, 0, 1], free_port()).into();
        for name in ["files", "temporary"] {
            std::fs::create_dir(folder.path().join(name)).expect("a folder");
        }
        let root = folder.path().display();
        // One process: there is no second one to outlive the test.
        let config = format!(
            r#"daemon off;
master_process off;
pid {root}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 1024; }}
http {{
    log_format recorded escape=json '{{"ts":$msec,"uri":"$request_uri","authorization":"$http_authorization",'
                                    '"status":$status,"connection":$connection}}';
    access_log {root}/access.log recorded;
    client_body_temp_path {root}/temporary/body;
    proxy_temp_path {root}/temporary/proxy;
    fastcgi_temp_path {root}/temporary/fastcgi;
    uwsgi_temp_path {root}/temporary/uwsgi;
    scgi_temp_path {root}/temporary/scgi;
    keepalive_requests {REQUESTS_PER_CONNECTION};
    keepalive_timeout 1s;
    client_max_body_size 64m;
    server {{
        listen {address} ssl;
        ssl_certificate {};
        ssl_certificate_key {};
        location / {{ default_type application/json; return 200 '{{"object":"ok"}}'; }}
        location /files/ {{ root {root}; dav_methods PUT; }}
    }}
}}
"#,
            certificates.certificate.display(),
            certificates.key.display(),
        );
        let file = folder.path().join("nginx.conf");
        std::fs::write(&file, config).expect("write nginx.conf");
        let mut command = Command::new(tool("nginx"));
        command.arg("-e").arg("stderr").arg("-p").arg(folder.path()).arg("-c").arg(file);
        let mut process = Process::start("nginx", &command, folder.path());
        wait_until("nginx listens", Duration::from_secs(30), async || {
            process.assert_running();
            TcpStream::connect(address).ok()
        })
        .await;
        Self { address, certificates, folder, _process: process }
    }

    /// A file that was put as `/files/NAME`.
    pub fn file(&self, name: &str) -> Vec<u8> {
        let path: PathBuf = self.folder.path().join("files").join(name);
        std::fs::read(&path).unwrap_or_else(|error| panic!("cannot read {}: {error}", path.display()))
    }

    pub fn trail(&self) -> Trail {
        Trail::of_nginx(self.folder.path().join("access.log"))
    }
}
