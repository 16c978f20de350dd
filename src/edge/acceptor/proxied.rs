//! Connections of trusted proxies, which may begin with a PROXY header. What must stay true: a client
//! is counted under its own address wherever its proxy names it.

use std::net::IpAddr;
use std::sync::Arc;

use tokio::net::TcpStream;

use crate::edge::acceptor::{Acceptor, HEADER_TIMEOUT, Service};
use crate::edge::peer::Peer;
use crate::edge::proxy_header;
use crate::local::admission::{AddressKey, Permit};

impl Acceptor {
    /// As `admit`, for a trusted proxy on a listener that demands no PROXY header. If it sends one, it
    /// counts. If it does not, its clients are counted once it has named them in their requests,
    /// which it cannot do over lines.
    pub(super) fn admit_trusted(
        self: &Arc<Self>,
        stream: TcpStream,
        proxy: IpAddr,
        port: Option<u16>,
        to: &Service,
    ) {
        let permit = match self.admission.admit(None) {
            Ok(permit) => Arc::new(permit),
            Err(refusal) => return self.refuse(stream, refusal, to),
        };
        let (acceptor, service) = (self.clone(), to.clone());
        tokio::spawn(async move {
            let is_named = tokio::select! {
                next = proxy_header::is_next(&stream) => next.unwrap_or(false),
                () = tokio::time::sleep(HEADER_TIMEOUT) => false,
                // Its client is told so in any case.
                () = acceptor.closing.begun() => false,
            };
            if is_named {
                return acceptor
                    .hear_proxy(stream, proxy, permit, port, &service)
                    .await;
            }
            let address = Some(proxy);
            acceptor
                .serving(stream, Peer { address, permit }, port, &service)
                .await;
        });
    }

    /// As `admit`, where the first bytes are a trusted proxy's and name its client.
    pub(super) fn admit_proxied(
        self: &Arc<Self>,
        stream: TcpStream,
        proxy: IpAddr,
        port: Option<u16>,
        to: &Service,
    ) {
        if !self.proxies.trusts(Some(proxy)) {
            return self.refuse_unnamed(proxy, &"it is not in PUSH_TRUSTED_PROXIES");
        }
        let permit = match self.admission.admit(None) {
            Ok(permit) => Arc::new(permit),
            Err(refusal) => return self.refuse(stream, refusal, to),
        };
        let (acceptor, service) = (self.clone(), to.clone());
        let heard = async move {
            acceptor
                .hear_proxy(stream, proxy, permit, port, &service)
                .await;
        };
        tokio::spawn(heard);
    }

    /// Reads the PROXY header of a trusted proxy, and counts the connection for the client.
    async fn hear_proxy(
        self: &Arc<Self>,
        mut stream: TcpStream,
        proxy: IpAddr,
        permit: Arc<Permit>,
        port: Option<u16>,
        service: &Service,
    ) {
        let read = proxy_header::read(&mut stream);
        let address = match tokio::time::timeout(HEADER_TIMEOUT, read).await {
            Ok(Ok(Ok(named))) => Some(named.unwrap_or(proxy).to_canonical()),
            Ok(Ok(Err(fault))) => return self.refuse_unnamed(proxy, &fault),
            // As balancers do that only look whether the port is open.
            Ok(Err(_gone)) => return,
            Err(_) => return self.refuse_unnamed(proxy, &"its header took over 10 s"),
        };
        // It may be another proxy, which names its client in each request.
        let permit = match self.proxies.trusts(address) && address != Some(proxy) {
            true => Ok(permit),
            false => {
                let source = AddressKey::of(address);
                self.admission.admit_behind(&permit, source)
            }
        };
        match permit {
            Ok(permit) => {
                self.serving(stream, Peer { address, permit }, port, service)
                    .await;
            }
            Err(refusal) => self.refuse(stream, refusal, service),
        }
    }

    /// Lets go of a connection that does not begin as its listener demands.
    fn refuse_unnamed(&self, proxy: IpAddr, fault: &dyn std::fmt::Display) {
        let label = "proxy_header".into();
        self.metrics.accepts_refused.get_or_create(&label).inc();
        if let Some(unlogged) = self.unnamed.pass() {
            tracing::warn!(%proxy, %fault, unlogged, "connection refused: no PROXY header of a trusted proxy");
        }
    }
}
