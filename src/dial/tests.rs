use std::future::Future;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicUsize, Ordering};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::tls;

const AMPLE: Duration = Duration::from_secs(10);

fn dialer() -> Dialer {
    Dialer::new(Destinations { allow: vec!["127.0.0.0/8".parse().expect("well-formed")] }, Vec::new())
}

fn authority(text: &str) -> Authority {
    Authority::parse(text, 443).expect("well-formed")
}

async fn dial(dialer: &Dialer, to: &str, security: &Security) -> Result<Connection, DialError> {
    let authority = authority(to);
    dialer.connect(&Target { authority: &authority, security, timeout: AMPLE }).await
}

/// Resolves everything to `answers`.
fn resolving(answers: &'static [&'static str]) -> Resolver {
    Resolver::given(move |_| Ok(answers.iter().map(|ip| ip.parse().expect("well-formed")).collect()))
}

async fn listen() -> (TcpListener, u16) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("binds");
    let port = listener.local_addr().expect("well-formed").port();
    (listener, port)
}

#[test]
fn a_dialer_serves_all_threads() {
    fn shared<T: Send + Sync>() {}
    fn sent<T: Send>(future: T) -> T {
        future
    }
    shared::<Dialer>();
    drop(sent(dial(&dialer(), "localhost", &Security::Plain)));
}

#[tokio::test]
async fn an_address_needs_no_resolver_and_is_judged_like_an_answer() {
    let (_listener, port) = listen().await;
    let connection = dial(&dialer(), &format!("127.0.0.1:{port}"), &Security::Plain).await.expect("no failure");
    assert_eq!(connection.protocol, Protocol::Http1);
    assert!(connection.io.tcp().nodelay().expect("no failure"));

    let strict = Dialer::new(Destinations::default(), Vec::new())
        .with_resolver(Resolver::given(|_| unreachable!("an address is not a name to resolve")));
    for address in ["127.0.0.1", "[::1]", "[::ffff:127.0.0.1]", "169.254.169.254"] {
        let result = dial(&strict, &format!("{address}:{port}"), &Security::Plain).await;
        assert!(matches!(result, Err(DialError::Prohibited(_))), "{address}");
    }
}

#[tokio::test]
async fn a_metadata_service_is_open_to_who_may_ask_it_and_nothing_else_is() {
    let metadata = authority("169.254.169.254:80");
    let brief = Duration::from_millis(20);
    let to = |authority, security| Target { authority, security, timeout: brief };
    let dialer = dialer();
    let judged = dialer.connect(&to(&metadata, &Security::Plain)).await;
    assert!(matches!(judged, Err(DialError::Prohibited(Prohibited { kind: Kind::Metadata, .. }))));
    let open = dialer.connect_to_metadata(&to(&metadata, &Security::Plain)).await;
    assert!(!matches!(open, Err(DialError::Prohibited(_))), "it was dialled, whether anybody is there or not");
    let private = authority("10.0.0.1:80");
    let other = dialer.connect_to_metadata(&to(&private, &Security::Plain)).await;
    assert!(matches!(other, Err(DialError::Prohibited(Prohibited { kind: Kind::Private, .. }))));
}

#[tokio::test]
async fn one_bad_address_rejects_the_whole_set() {
    let (_listener, port) = listen().await;
    let to = format!("api.example:{port}");
    for answers in
        [&["127.0.0.1", "10.0.0.1"][..], &["10.0.0.1", "127.0.0.1"], &["127.0.0.1", "8.8.8.8", "169.254.169.254"]]
    {
        let result = dial(&dialer().with_resolver(resolving(answers)), &to, &Security::Plain).await;
        assert!(matches!(result, Err(DialError::Prohibited(_))), "{answers:?}");
    }
}

#[tokio::test]
async fn a_name_is_resolved_once_for_a_connection() {
    let (_listener, port) = listen().await;
    let questions = Arc::new(AtomicUsize::new(0));
    let counted = questions.clone();
    let rebinding = dialer().with_resolver(Resolver::given(move |_| {
        let first = counted.fetch_add(1, Ordering::Relaxed) == 0;
        Ok(vec![if first { Ipv4Addr::LOCALHOST } else { Ipv4Addr::new(169, 254, 169, 254) }.into()])
    }));
    let connection = dial(&rebinding, &format!("api.example:{port}"), &Security::Plain).await.expect("no failure");
    assert_eq!(connection.io.tcp().peer_addr().expect("an address").ip(), Ipv4Addr::LOCALHOST);
    assert_eq!(questions.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn the_next_address_is_tried_when_one_refuses() {
    let (_listener, port) = listen().await;
    let two = dialer().with_resolver(resolving(&["127.0.0.2", "127.0.0.1"]));
    let connection = dial(&two, &format!("api.example:{port}"), &Security::Plain).await.expect("no failure");
    assert_eq!(connection.io.tcp().peer_addr().expect("an address").ip(), Ipv4Addr::LOCALHOST);
}

#[tokio::test]
async fn our_own_listener_is_never_dialled() {
    let (listener, port) = listen().await;
    let allow = vec!["127.0.0.0/8".parse().expect("well-formed")];
    let dialer = Dialer::new(Destinations { allow }, vec![listener.local_addr().expect("well-formed")]);
    let result = dial(&dialer, &format!("127.0.0.1:{port}"), &Security::Plain).await;
    assert!(matches!(result, Err(DialError::Prohibited(Prohibited { kind: Kind::Own, .. }))));
}

#[tokio::test]
async fn each_failure_has_its_name() {
    let (listener, port) = listen().await;
    drop(listener);
    let to = format!("127.0.0.1:{port}");
    assert!(matches!(dial(&dialer(), &to, &Security::Plain).await, Err(DialError::Refused(_))));

    let nothing = dialer().with_resolver(resolving(&[]));
    assert!(matches!(dial(&nothing, "api.example", &Security::Plain).await, Err(DialError::Resolve(..))));

    let no_such_name = |_: &str| Err(io::Error::new(io::ErrorKind::NotFound, "no such name"));
    let unknown = dialer().with_resolver(Resolver::given(no_such_name));
    let error = dial(&unknown, "api.example", &Security::Plain).await.expect_err("no such name");
    assert_eq!(error.to_string(), "cannot resolve api.example: no such name");
}

#[tokio::test(start_paused = true)]
async fn a_silent_peer_is_given_up_at_the_deadline() {
    // It accepts, and never says a word of its handshake.
    let (_listener, port) = listen().await;
    let security = Security::Tls(Issued::by_the_known_ca().client);
    let started = Instant::now();
    let result = dial(&dialer(), &format!("127.0.0.1:{port}"), &security).await;
    assert!(matches!(result, Err(DialError::Timeout(Stage::Handshake))));
    assert_eq!(started.elapsed().as_secs(), AMPLE.as_secs());
}

#[test]
fn the_families_take_turns() {
    let addresses = ["[2600::1]:1", "[2600::2]:1", "[2600::3]:1", "8.8.8.8:1", "8.8.4.4:1"];
    let order = alternating(addresses.iter().map(|address| address.parse().expect("well-formed")).collect());
    let order: Vec<String> = order.iter().map(ToString::to_string).collect();
    assert_eq!(order, ["[2600::1]:1", "8.8.8.8:1", "[2600::2]:1", "8.8.4.4:1", "[2600::3]:1"]);
}

/// A server's certificate, and what a client that trusts its CA is configured with.
struct Issued {
    server: Arc<rustls::ServerConfig>,
    client: Arc<ClientConfig>,
}

impl Issued {
    fn by_the_known_ca() -> Self {
        Self::new("api.example", |_| {})
    }

    fn new(name: &str, change: impl FnOnce(&mut CertificateParams)) -> Self {
        let mut ca = CertificateParams::new(Vec::new()).expect("a certificate");
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca_key = KeyPair::generate().expect("a key");
        let ca_certificate = ca.self_signed(&ca_key).expect("a key");

        let key = KeyPair::generate().expect("a key");
        let mut leaf = CertificateParams::new([name.to_owned()]).expect("a key");
        change(&mut leaf);
        let leaf = leaf.signed_by(&key, &Issuer::new(ca, &ca_key)).expect("a key");
        let mut server = rustls::ServerConfig::builder_with_provider(tls::provider())
            .with_safe_default_protocol_versions()
            .expect("a key")
            .with_no_client_auth()
            .with_single_cert(vec![leaf.der().clone()], key.serialize_der().try_into().expect("well-formed"))
            .expect("well-formed");
        server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];

        let file = tempfile::NamedTempFile::new().expect("well-formed");
        std::fs::write(file.path(), ca_certificate.pem()).expect("well-formed");
        let settings = tls::Settings { ca: Some(file.path().to_owned()), ..tls::Settings::default() };
        Self { server: Arc::new(server), client: settings.client_config(tls::Alpn::Http2OrHttp1).expect("written") }
    }
}

/// Dials `to`, which leads to a server with `server`'s certificate; the server then echoes one byte.
async fn over_tls(server: &Issued, client: &Arc<ClientConfig>, to: &str) -> Result<Connection, DialError> {
    let (listener, port) = listen().await;
    let dialer = dialer().with_resolver(resolving(&["127.0.0.1"]));
    let (to, security) = (format!("{to}:{port}"), Security::Tls(client.clone()));
    beside(dial(&dialer, &to, &security), async {
        let (tcp, _) = listener.accept().await.expect("accepts");
        if let Ok(mut tls) = TlsAcceptor::from(server.server.clone()).accept(tcp).await {
            let byte = tls.read_u8().await.expect("accepts");
            tls.write_u8(byte).await.expect("accepts");
            tls.flush().await.expect("accepts");
        }
    })
    .await
}

/// `future`, while `other` runs beside it.
async fn beside<T>(future: impl Future<Output = T>, other: impl Future<Output = ()>) -> T {
    let lasting = async {
        other.await;
        std::future::pending().await
    };
    tokio::select! {
        result = future => result,
        never = lasting => never,
    }
}

fn certificate_error(result: Result<Connection, DialError>) -> String {
    match result {
        Err(DialError::Tls { kind: TlsKind::Certificate, detail, .. }) => detail,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_verified_connection_knows_its_authority_and_protocol() {
    let issued = Issued::by_the_known_ca();
    let connection = over_tls(&issued, &issued.client, "api.example").await.expect("no failure");
    assert_eq!(connection.authority.host, Host::Name("api.example".into()));
    assert_eq!(connection.protocol, Protocol::Http2);
    assert!(matches!(connection.io, Stream::Tls(_)));

    let by_address = Issued::new("127.0.0.1", |_| {});
    let connection = over_tls(&by_address, &by_address.client, "127.0.0.1").await.expect("no failure");
    assert_eq!(connection.authority.host, Host::Ip(Ipv4Addr::LOCALHOST.into()));
}

#[tokio::test]
async fn bytes_pass_in_both_directions() {
    let issued = Issued::by_the_known_ca();
    let (listener, port) = listen().await;
    let dialer = dialer().with_resolver(resolving(&["127.0.0.1"]));
    let security = Security::Tls(issued.client.clone());
    let echoed = beside(
        async {
            let mut io = dial(&dialer, &format!("api.example:{port}"), &security).await.expect("no failure").io;
            assert!(io.is_write_vectored());
            let written = io.write_vectored(&[io::IoSlice::new(b"a"), io::IoSlice::new(b"b")]).await.expect("writes");
            io.flush().await.expect("writes");
            let mut back = vec![0; written];
            io.read_exact(&mut back).await.expect("writes");
            back
        },
        async {
            let (tcp, _) = listener.accept().await.expect("accepts");
            let (mut read, mut write) =
                tokio::io::split(TlsAcceptor::from(issued.server.clone()).accept(tcp).await.expect("accepts"));
            let _ = tokio::io::copy(&mut read, &mut write).await;
        },
    )
    .await;
    assert_eq!(echoed, b"ab");
}

#[tokio::test]
async fn another_name_than_the_certificates_is_refused() {
    let issued = Issued::by_the_known_ca();
    let detail = certificate_error(over_tls(&issued, &issued.client, "evil.example").await);
    assert!(detail.contains("not valid for name"), "{detail}");
    certificate_error(over_tls(&issued, &issued.client, "127.0.0.1").await);
    certificate_error(over_tls(&issued, &issued.client, "sub.api.example").await);
}

#[tokio::test]
async fn a_certificate_of_an_unknown_ca_is_refused() {
    let (issued, other) = (Issued::by_the_known_ca(), Issued::by_the_known_ca());
    certificate_error(over_tls(&issued, &other.client, "api.example").await);
}

#[tokio::test]
async fn a_certificate_out_of_its_time_is_refused() {
    let expired = Issued::new("api.example", |leaf| leaf.not_after = date_time_ymd(2020, 1, 1));
    let detail = certificate_error(over_tls(&expired, &expired.client, "api.example").await);
    assert!(detail.contains("expired"), "{detail}");
    let early = Issued::new("api.example", |leaf| leaf.not_before = date_time_ymd(4000, 1, 1));
    certificate_error(over_tls(&early, &early.client, "api.example").await);
}

#[tokio::test]
async fn a_peer_that_does_not_speak_tls_is_a_failure_of_the_protocol() {
    let (listener, port) = listen().await;
    let security = Security::Tls(Issued::by_the_known_ca().client);
    let dialer = dialer();
    let result = beside(dial(&dialer, &format!("127.0.0.1:{port}"), &security), async {
        let (mut tcp, _) = listener.accept().await.expect("accepts");
        tcp.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.expect("accepts");
    })
    .await;
    assert!(matches!(result, Err(DialError::Tls { kind: TlsKind::Protocol, .. })), "{result:?}");
}
