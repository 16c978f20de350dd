//! How a lean connection is made: the address, TLS, and the greeting.
//!
//! The same steps as fred's: connect, then ask for the credentials of now, which with Sentinels
//! waits until they name the server, then greet it. What must stay true: a server that is known by
//! its name alone and says that it is a replica is not used.

use std::ffi::OsString;
use std::net::IpAddr;
use std::os::unix::ffi::OsStringExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use fred::error::{Error, ErrorKind};
use fred::types::config::TlsConnector;
use percent_encoding::percent_decode_str;
use rustls_pki_types::ServerName;
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use crate::backplane::redis::COMMAND_TIMEOUT;
use crate::backplane::redis::servers::link::{Link, LinkWatch};
use crate::backplane::redis::servers::tls;
use crate::backplane::redis::servers::vouch::{Credentials, Destination};
use crate::backplane::redis::wire::connection::Door;
use crate::backplane::redis::wire::stream::{RedisStream, greet};

/// Port of a URL without one.
pub(super) const PORT: u16 = 6379;

/// Where a server is.
enum Address {
    /// Its name, which address of the name to dial, if that is known, and the port.
    Host(String, Option<IpAddr>, u16),
    Socket(PathBuf),
}

/// Leads to one server, and tells of it as one kind of link.
pub(crate) struct ServerDoor {
    address: Address,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    credentials: Credentials,
    database: u8,
    /// Whether nothing else looks after its role.
    by_name: bool,
    link: Link,
    watch: LinkWatch,
    /// For the log: empty, or ` at host:port`.
    at: String,
    is_over: Arc<AtomicBool>,
}

impl ServerDoor {
    /// Once `is_over`, it tells nothing any more.
    ///
    /// # Errors
    /// What is wrong with the URL or the TLS files.
    pub(crate) fn new(
        destination: &Destination,
        link: Link,
        watch: LinkWatch,
        at: String,
        is_over: Arc<AtomicBool>,
    ) -> Result<Self, Error> {
        let server = &destination.url;
        let odd = |what: &str| Error::new(ErrorKind::Config, format!("the URL of Redis {what}"));
        let url = url::Url::parse(&server.url).map_err(|error| odd(&error.to_string()))?;
        let address = match url.host() {
            _ if url.scheme().ends_with("+unix") => {
                let path: Vec<u8> = percent_decode_str(url.path()).collect();
                Address::Socket(OsString::from_vec(path).into())
            }
            Some(host) => {
                // Without the brackets that a URL needs.
                let host = match host {
                    url::Host::Domain(name) => name.to_owned(),
                    url::Host::Ipv4(address) => address.to_string(),
                    url::Host::Ipv6(address) => address.to_string(),
                };
                Address::Host(host, server.at, url.port().unwrap_or(PORT))
            }
            None => return Err(odd("has no host")),
        };
        let tls = match (&address, url.scheme()) {
            (Address::Host(host, ..), "rediss" | "valkeys") => {
                let name = ServerName::try_from(host.clone());
                let name = name.map_err(|_| odd("has a host that no certificate can name"))?;
                Some((tls::connector(&server.tls)?, name))
            }
            _ => None,
        };
        Ok(Self {
            address,
            tls,
            credentials: destination.credentials(),
            database: server.database,
            by_name: link == Link::Pushes && !destination.is_one_of_several(),
            link,
            watch,
            at,
            is_over,
        })
    }

    async fn connect(&self) -> Result<RedisStream, Error> {
        let stream = match &self.address {
            Address::Socket(path) => return Ok(Box::new(UnixStream::connect(path).await?)),
            Address::Host(_, Some(address), port) => TcpStream::connect((*address, *port)).await?,
            Address::Host(name, None, port) => TcpStream::connect((name.as_str(), *port)).await?,
        };
        stream.set_nodelay(true)?;
        Ok(match &self.tls {
            Some((TlsConnector::Rustls(connector), name)) => {
                Box::new(connector.connect(name.clone(), stream).await?)
            }
            None => Box::new(stream),
        })
    }

    async fn enter(&self, stream: &mut RedisStream) -> Result<(), Error> {
        let login = self.credentials.login().await?;
        let login = login.as_ref();
        let words = login.map(|login| {
            let user = login.user.as_deref().unwrap_or("default");
            (user, login.password.reveal())
        });
        let greeting = greet(stream, words, self.database).await?;
        match self.by_name && greeting.is_replica {
            true => Err(Error::new(ErrorKind::Unknown, "READONLY it is a replica")),
            false => Ok(()),
        }
    }
}

/// This, unless it takes too long.
async fn in_time<T>(
    time: Duration,
    what: &'static str,
    work: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    let silent = |_| Error::new(ErrorKind::Timeout, what);
    timeout(time, work).await.map_err(silent)?
}

impl Door for ServerDoor {
    async fn open(&self) -> Result<RedisStream, Error> {
        let mut stream = in_time(COMMAND_TIMEOUT, "no connection in time", self.connect()).await?;
        let entered = self.enter(&mut stream);
        in_time(COMMAND_TIMEOUT, "no greeting in time", entered).await?;
        Ok(stream)
    }

    fn opened(&self) {
        self.watch.faults.clear(self.link);
    }

    fn failed(&self, error: &Error) {
        self.watch.failed(self.link, error, &self.at, &self.is_over);
    }
}
