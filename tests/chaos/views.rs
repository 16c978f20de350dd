//! Where nodes are right now, for actors that choose one.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use fastrand::Rng;
use tokio::sync::watch;

use crate::common::http;

/// A running node.
#[derive(Debug, Clone)]
pub(crate) struct View {
    /// `<name>.<boot>`.
    pub(crate) id: String,
    pub(crate) clients: SocketAddr,
    /// Where clients connect by plain TCP.
    pub(crate) lines: Option<SocketAddr>,
    pub(crate) admin: SocketAddr,
    pub(crate) pid: u32,
}

impl View {
    /// Whether it says that it is ready.
    pub(crate) async fn is_ready(&self) -> bool {
        let url = format!("http://{}/readyz", self.admin);
        let limit = Duration::from_secs(2);
        let answer = http().get(url).timeout(limit).send().await;
        answer.is_ok_and(|answer| answer.status().is_success())
    }
}

/// Shared by the stage, which writes it, and all actors.
#[derive(Debug, Default)]
pub(crate) struct Views {
    /// By place; none while the node is down.
    nodes: RwLock<Vec<Option<View>>>,
    /// Clients that are connected.
    connected: AtomicUsize,
    /// Those of them whose tokens end soon.
    expiring: AtomicUsize,
    publishers_end: AtomicBool,
    moving_began: AtomicBool,
    churn_ends: watch::Sender<bool>,
}

impl Views {
    pub(crate) fn of(nodes: usize) -> Arc<Self> {
        let views = Self::default();
        *views.write() = vec![None; nodes];
        Arc::new(views)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, Vec<Option<View>>> {
        self.nodes.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set(&self, place: usize, view: Option<View>) {
        self.write()[place] = view;
    }

    pub(crate) fn all(&self) -> Vec<View> {
        let nodes = self.nodes.read().unwrap_or_else(PoisonError::into_inner);
        nodes.iter().flatten().cloned().collect()
    }

    pub(crate) fn any(&self, rng: &mut Rng) -> Option<View> {
        rng.choice(self.all())
    }

    pub(crate) fn client_came(&self) {
        self.connected.fetch_add(1, Ordering::SeqCst);
    }

    pub(crate) fn client_went(&self) {
        self.connected.fetch_sub(1, Ordering::SeqCst);
    }

    pub(crate) fn connected(&self) -> usize {
        self.connected.load(Ordering::SeqCst)
    }

    /// Publishers finish what they are at.
    pub(crate) fn end_publishing(&self) {
        self.publishers_end.store(true, Ordering::SeqCst);
    }

    pub(crate) fn is_publishing(&self) -> bool {
        !self.publishers_end.load(Ordering::SeqCst)
    }

    /// Clients that move all the time begin to.
    pub(crate) fn begin_moving(&self) {
        self.moving_began.store(true, Ordering::SeqCst);
    }

    pub(crate) fn is_moving(&self) -> bool {
        self.moving_began.load(Ordering::SeqCst) && self.is_churning()
    }

    /// Notes that one more client, or one less, has a token that ends soon.
    pub(crate) fn expires_soon(&self, soon: bool) {
        if soon {
            self.expiring.fetch_add(1, Ordering::SeqCst);
        } else {
            self.expiring.fetch_sub(1, Ordering::SeqCst);
        }
    }

    pub(crate) fn expiring(&self) -> usize {
        self.expiring.load(Ordering::SeqCst)
    }

    /// Clients stay where they are from now on, with the topics that they are in.
    pub(crate) fn end_churn(&self) {
        self.churn_ends.send_replace(true);
    }

    pub(crate) fn is_churning(&self) -> bool {
        !*self.churn_ends.borrow()
    }

    /// Waits for the end of churning.
    pub(crate) async fn churn_ended(&self) {
        let mut ends = self.churn_ends.subscribe();
        // The sender lives as long as `self`.
        let _ = ends.wait_for(|ends| *ends).await;
    }
}
