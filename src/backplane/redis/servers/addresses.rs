//! Which address of a name to dial, where it has several.
//!
//! fred 10.1: dials the addresses of a name one after the other within one time limit, so the first
//! that never answers uses it up, at each try, and the others are not reached. So while there is no
//! connection, the addresses race here (as in RFC 8305), and fred is given the winner.
//!
//! That holds for the only server, for Sentinels, and for the servers that Sentinels or a cluster
//! name, which may be names, too.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use futures::future::select_ok;
use parking_lot::RwLock;
use tokio::net::{TcpStream, lookup_host};

use crate::backplane::redis::servers::dial::PORT;
use crate::config::redis_url::ServerUrl;

/// How much earlier an address is dialled than the next one.
const HEAD_START: Duration = Duration::from_millis(250);
/// How long all of them may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Which address of a server's name answered, where that was asked for.
#[derive(Debug, Default)]
pub(super) struct AddressBook(RwLock<HashMap<String, IpAddr>>);

impl AddressBook {
    /// The server, at the address of its name that answered.
    pub(super) fn pin(&self, server: ServerUrl) -> ServerUrl {
        let at = self.0.read().get(&server.url).copied();
        ServerUrl { at, ..server }
    }

    /// Looks up the name of a server; answers whether another address than before is to be dialled
    /// from now on. A name with one address is left to fred.
    pub(super) async fn choose(&self, server: &ServerUrl) -> bool {
        let before = self.0.read().get(&server.url).copied();
        let found = first_to_answer(server, before.is_some()).await;
        if let Some(found) = found {
            self.0.write().insert(server.url.clone(), found);
        }
        found.is_some() && found != before
    }
}

/// The address of the URL's name that answers first. `None` if none does, or the URL has no name,
/// or one with a single address, unless `even_one` asks for that, too.
async fn first_to_answer(server: &ServerUrl, even_one: bool) -> Option<IpAddr> {
    let url = url::Url::parse(&server.url).ok()?;
    let Some(url::Host::Domain(name)) = url.host() else {
        return None;
    };
    if url.scheme().ends_with("+unix") {
        return None;
    }
    let name = (name, url.port().unwrap_or(PORT));
    let race = async {
        let addresses: Vec<SocketAddr> = lookup_host(name).await.ok()?.collect();
        match addresses.len() {
            0 => None,
            1 if !even_one => None,
            _ => first(addresses).await,
        }
    };
    tokio::time::timeout(PATIENCE, race).await.ok().flatten()
}

async fn first(addresses: Vec<SocketAddr>) -> Option<IpAddr> {
    let tries = (0_u32..).zip(addresses).map(|(before, address)| {
        Box::pin(async move {
            tokio::time::sleep(HEAD_START * before).await;
            TcpStream::connect(address).await.map(|_| address.ip())
        })
    });
    Some(select_ok(tries).await.ok()?.0)
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener};

    use socket2::{Domain, Socket, Type};

    use super::*;

    #[tokio::test]
    async fn the_first_that_answers_wins_in_the_order_of_the_name() {
        let listener = |last| TcpListener::bind((Ipv4Addr::new(127, 0, 0, last), 0)).unwrap();
        let listeners = (listener(1), listener(2));
        let one = listeners.0.local_addr().unwrap();
        let other = listeners.1.local_addr().unwrap();
        assert_eq!(first(vec![other]).await, Some(other.ip()));
        let (silent, _waiting) = silent();
        assert_eq!(first(vec![silent, other]).await, Some(other.ip()));
        assert_eq!(first(vec![one, other]).await, Some(one.ip()));
    }

    /// An address that answers no more: all who may wait for its listener are there.
    fn silent() -> (SocketAddr, Vec<Socket>) {
        let socket = || Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let listener = socket();
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        listener.bind(&any.into()).unwrap();
        listener.listen(0).unwrap();
        let address = listener.local_addr().unwrap();
        let mut sockets = vec![listener];
        for _ in 0..3 {
            let waiting = socket();
            waiting.set_nonblocking(true).unwrap();
            // Under way, which counts as an error.
            let _ = waiting.connect(&address);
            sockets.push(waiting);
        }
        (address.as_socket().unwrap(), sockets)
    }

    #[tokio::test]
    async fn only_names_with_several_addresses_are_raced() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = |url: &str| ServerUrl {
            url: url.replace("PORT", &port.to_string()),
            at: None,
            login: None,
            login_file: None,
            tls: crate::config::redis_url::TlsFiles::default(),
            database: 0,
        };
        let numeric = server("redis://127.0.0.1:PORT");
        assert_eq!(first_to_answer(&numeric, false).await, None);
        let here = Some(IpAddr::from(Ipv4Addr::LOCALHOST));
        assert_eq!(first_to_answer(&numeric, true).await, here);
        let socket = server("redis+unix://localhost/run/redis.sock");
        assert_eq!(first_to_answer(&socket, true).await, None);
    }
}
