//! TLS: which protocol is agreed on, which certificates are believed. (What needs no private access is in `tests/fetch.rs`.)

use super::{FetchError, Fetcher, Request, client};
use bytes::Bytes;
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use url::Url;

/// An HTTPS origin for `localhost` that speaks `protocols` and answers with the HTTP version of the request.
async fn origin(protocols: &[&str]) -> (SocketAddr, CertificateDer<'static>) {
    let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let certificate = certified.cert.der().clone();
    let key = PrivateKeyDer::try_from(certified.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key)
        .unwrap();
    config.alpn_protocols = protocols.iter().map(|p| p.as_bytes().to_vec()).collect();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(acceptor.clone(), stream));
        }
    });
    (address, certificate)
}

async fn serve(acceptor: TlsAcceptor, stream: TcpStream) {
    let Ok(stream) = acceptor.accept(stream).await else { return };
    let h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let service = service_fn(|request: http::Request<hyper::body::Incoming>| async move {
        let text = format!("{:?}", request.version());
        Ok::<_, Infallible>(http::Response::new(Full::new(Bytes::from(text))))
    });
    let io = TokioIo::new(stream);
    let _ = if h2 {
        hyper::server::conn::http2::Builder::new(TokioExecutor::new()).serve_connection(io, service).await
    } else {
        hyper::server::conn::http1::Builder::new().serve_connection(io, service).await
    };
}

fn believing(certificate: CertificateDer<'static>) -> Fetcher {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate).unwrap();
    Fetcher { client: client::build("mahp-test/0", client::tls_with(roots), None, None), guard: None }
}

async fn version(fetcher: &Fetcher, host: &str, to: SocketAddr) -> Result<Bytes, FetchError> {
    let url = Url::parse(&format!("https://{host}:{}/", to.port())).unwrap();
    fetcher.get(&url, Request::default()).await.map(|r| r.body)
}

#[tokio::test]
async fn the_best_common_protocol_is_spoken() {
    for (protocols, expected) in [
        (&["h2", "http/1.1"][..], "HTTP/2.0"),
        (&["h2"], "HTTP/2.0"),
        (&["http/1.1"], "HTTP/1.1"),
        (&[], "HTTP/1.1"),
    ] {
        let (to, certificate) = origin(protocols).await;
        assert_eq!(
            version(&believing(certificate), "localhost", to).await.unwrap(),
            expected,
            "{protocols:?}"
        );
    }
}

#[tokio::test]
async fn certificates_are_checked() {
    let (to, certificate) = origin(&["h2"]).await;
    for (fetcher, host) in [(Fetcher::new("mahp-test/0"), "localhost"), (believing(certificate), "127.0.0.1")]
    {
        let error = version(&fetcher, host, to).await.unwrap_err();
        let FetchError::Connect { cause, .. } = &error else { panic!("{error}") };
        assert!(cause.contains("certificate"), "{error}");
    }
}

#[tokio::test]
async fn https_to_a_server_of_plain_http_says_so() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
            let _ = stream.read(&mut [0; 1024]).await;
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n").await;
        }
    });
    let url = Url::parse(&format!("https://{address}/x")).unwrap();
    let error = Fetcher::new("test").get(&url, Request::default()).await.unwrap_err();
    assert_eq!(error.to_string(), format!("{url}: cannot connect: what answers there does not speak TLS"));
    assert_eq!(error.plain_http_hint(), Some(format!("use http://: http://{address}/x")));
    let refused = FetchError::Connect { url: url.into(), cause: "Connection refused".into() };
    assert_eq!(refused.plain_http_hint(), None);
}
