//! Certificates: from files, or self-signed and believed by fingerprint; ALPN, and what is said when it does not match.

use crate::wire::ALPN;
use ring::digest::{SHA256, digest};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, DigitallySignedStruct, RootCertStore, SignatureScheme};
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

/// Why there is no TLS configuration.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// A file that is not readable or not PEM.
    #[error("{path}: {reason}", path = .0.display(), reason = .1)]
    File(PathBuf, String),
    /// Anything the TLS library does not accept.
    #[error("certificate or key is not usable: {0}")]
    Unusable(String),
}

/// SHA-256 of a certificate (DER): 64 hexadecimal characters.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    fn of(certificate: &CertificateDer<'_>) -> Fingerprint {
        let mut out = [0; 32];
        out.copy_from_slice(digest(&SHA256, certificate).as_ref());
        Fingerprint(out)
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Fingerprint {
    type Err = TlsError;

    /// Reads 64 hexadecimal characters; colons between them are allowed.
    fn from_str(s: &str) -> Result<Fingerprint, TlsError> {
        let wrong = || TlsError::Unusable(format!("fingerprint `{s}` is not a SHA-256 in hexadecimal"));
        let digits: Vec<u8> = s
            .chars()
            .filter(|c| *c != ':')
            .map(|c| c.to_digit(16).map(|d| d as u8))
            .collect::<Option<_>>()
            .ok_or_else(wrong)?;
        let bytes: Vec<u8> = digits.chunks(2).map(|pair| pair.iter().fold(0, |v, d| v << 4 | d)).collect();
        if digits.len() != 64 {
            return Err(wrong());
        }
        bytes.try_into().map(Fingerprint).map_err(|_| wrong())
    }
}

/// A server's certificate and key.
#[derive(Clone)]
pub struct Identity {
    key: Arc<CertifiedKey>,
    fingerprint: Fingerprint,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({})", self.fingerprint)
    }
}

impl Identity {
    /// From PEM files: a chain, leaf first, and its key.
    pub fn from_files(chain: &Path, key: &Path) -> Result<Identity, TlsError> {
        let certificates = read_certificates(chain)?;
        let key = PrivateKeyDer::from_pem_file(key)
            .map_err(|e| TlsError::File(key.to_owned(), format!("no private key in PEM: {e}")))?;
        Identity::new(certificates, key)
    }

    /// A new one for these DNS names and addresses, believed only by its fingerprint.
    pub fn self_signed(names: &[String]) -> Result<Identity, TlsError> {
        let made = rcgen::generate_simple_self_signed(names.to_vec())
            .map_err(|e| TlsError::Unusable(e.to_string()))?;
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der())
            .map_err(|e| TlsError::Unusable(e.to_owned()))?;
        Identity::new(vec![made.cert.der().clone()], key)
    }

    fn new(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> Result<Identity, TlsError> {
        let leaf = chain.first().ok_or_else(|| TlsError::Unusable("no certificate".into()))?;
        let fingerprint = Fingerprint::of(leaf);
        let key =
            CertifiedKey::from_der(chain, key, &provider()).map_err(|e| TlsError::Unusable(e.to_string()))?;
        Ok(Identity { key: Arc::new(key), fingerprint })
    }

    /// Of the leaf: goes into the session description.
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    pub(super) fn server_config(&self) -> Result<rustls::ServerConfig, TlsError> {
        let mut config = rustls::ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|e| TlsError::Unusable(e.to_string()))?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(Resolver(self.key.clone())));
        config.alpn_protocols = vec![ALPN.as_bytes().to_vec()];
        Ok(config)
    }
}

/// Gives the one certificate, and says what a client offered that does not speak our draft: the TLS library only refuses.
#[derive(Debug)]
struct Resolver(Arc<CertifiedKey>);

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let offered: Vec<String> =
            hello.alpn().into_iter().flatten().map(|p| String::from_utf8_lossy(p).into_owned()).collect();
        if !offered.iter().any(|p| p == ALPN) {
            tracing::warn!(?offered, supported = ?[ALPN], "moq: a client speaks no protocol of ours; it is refused");
        }
        Some(self.0.clone())
    }
}

/// Which servers a client believes.
#[derive(Clone, Debug, Default)]
pub enum Trust {
    /// Those with a certificate of a public authority.
    #[default]
    Public,
    /// Those with a certificate that chains to one in this PEM file.
    File(PathBuf),
    /// Those with one of these certificates, whatever name and date are in it.
    Fingerprints(Vec<Fingerprint>),
}

impl Trust {
    pub(super) fn client_config(&self) -> Result<rustls::ClientConfig, TlsError> {
        let builder = rustls::ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|e| TlsError::Unusable(e.to_string()))?;
        let mut config = match self {
            Trust::Public => {
                let roots = RootCertStore::from_iter(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
                builder.with_root_certificates(roots).with_no_client_auth()
            }
            Trust::File(path) => {
                let mut roots = RootCertStore::empty();
                for certificate in read_certificates(path)? {
                    roots.add(certificate).map_err(|e| TlsError::File(path.clone(), e.to_string()))?;
                }
                builder.with_root_certificates(roots).with_no_client_auth()
            }
            Trust::Fingerprints(pins) => builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(Pinned {
                    pins: pins.clone(),
                    provider: provider(),
                }))
                .with_no_client_auth(),
        };
        config.alpn_protocols = vec![ALPN.as_bytes().to_vec()];
        Ok(config)
    }
}

fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let wrong = |e: String| TlsError::File(path.to_owned(), e);
    let certificates: Vec<_> = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|e| wrong(format!("not a PEM file of certificates: {e}")))?;
    if certificates.is_empty() { Err(wrong("no certificate in it".into())) } else { Ok(certificates) }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// Believes certificates by fingerprint; that the server holds the key is checked as always.
#[derive(Debug)]
struct Pinned {
    pins: Vec<Fingerprint>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if self.pins.contains(&Fingerprint::of(leaf)) {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(rustls::Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure))
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
