//! TLS to Redis with certificates of the operator's choice: the authorities that its own is signed
//! by, and the one that the node shows.
//!
//! The node's certificate and key are read at each handshake, because they may live for hours only.
//! What must stay true: while they cannot be read, or do not fit each other, the last ones that did
//! are shown, and the log says so.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use fred::error::{Error, ErrorKind};
use fred::types::config::TlsConnector;
use parking_lot::RwLock;
use rustls::client::{ResolvesClientCert, Resumption};
use rustls::crypto::CryptoProvider;
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::config::redis_url::TlsFiles;
use crate::telemetry::throttle::Throttle;

/// Between two lines in the log about files that cannot be used.
const COMPLAINTS: Duration = Duration::from_secs(30);

/// A connector with these certificates.
///
/// # Errors
/// What is wrong with a file.
pub(crate) fn connector(files: &TlsFiles) -> Result<TlsConnector, Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    match &files.authorities {
        Some(path) => {
            for certificate in
                certificates(path).map_err(|what| fault("PUSH_REDIS_TLS_CA", what))?
            {
                let added = roots.add(certificate);
                added.map_err(|error| {
                    fault("PUSH_REDIS_TLS_CA", format!("({}) {error}", path.display()))
                })?;
            }
        }
        None => _ = roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs),
    }
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| fault("TLS", error.to_string()))?
        .with_root_certificates(roots);
    let mut config = match &files.certificate {
        Some((certificate, key)) => {
            let shown = NodeCertificate::read(certificate, key, provider)
                .map_err(|what| fault("PUSH_REDIS_TLS_CERT", what))?;
            builder.with_client_cert_resolver(Arc::new(shown))
        }
        None => builder.with_no_client_auth(),
    };
    // A resumed session shows no certificate, so one that was replaced would still count.
    config.resumption = Resumption::disabled();
    Ok(config.into())
}

fn fault(variable: &str, what: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Tls, format!("{variable} {what}"))
}

/// The certificate that the node shows.
#[derive(Debug)]
struct NodeCertificate {
    certificate: PathBuf,
    key: PathBuf,
    provider: Arc<CryptoProvider>,
    last: RwLock<Arc<CertifiedKey>>,
    complaints: Throttle,
}

impl NodeCertificate {
    fn read(certificate: &Path, key: &Path, provider: Arc<CryptoProvider>) -> Result<Self, String> {
        Ok(Self {
            last: RwLock::new(Arc::new(certified(certificate, key, &provider)?)),
            certificate: certificate.to_owned(),
            key: key.to_owned(),
            provider,
            complaints: Throttle::new(COMPLAINTS),
        })
    }
}

impl ResolvesClientCert for NodeCertificate {
    fn resolve(&self, _hints: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        match certified(&self.certificate, &self.key, &self.provider) {
            Ok(shown) => *self.last.write() = Arc::new(shown),
            Err(what) => {
                if let Some(unlogged) = self.complaints.pass() {
                    tracing::warn!(
                        unlogged,
                        "PUSH_REDIS_TLS_CERT {what}; the certificate read before is shown"
                    );
                }
            }
        }
        Some(self.last.read().clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let fault = |what: String| format!("({}) {what}", path.display());
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let read = read.map_err(|error| fault(format!("cannot be read: {error}")))?;
    match read.is_empty() {
        true => Err(fault("has no certificate".to_owned())),
        false => Ok(read),
    }
}

/// A certificate with its key; an error if they do not belong together.
fn certified(
    certificate: &Path,
    key: &Path,
    provider: &CryptoProvider,
) -> Result<CertifiedKey, String> {
    let chain = certificates(certificate)?;
    let fault = |what: String| format!("with PUSH_REDIS_TLS_KEY ({}) {what}", key.display());
    let secret = PrivateKeyDer::from_pem_file(key);
    let secret = secret.map_err(|error| fault(format!("cannot be read: {error}")))?;
    CertifiedKey::from_der(chain, secret, provider).map_err(|error| fault(error.to_string()))
}
