//! Many clients at once, and one place where all that they hear comes together.

use std::collections::HashSet;
use std::net::SocketAddr;

use futures::StreamExt;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::common::{Node, PATIENCE};
use crate::raw::{Event, Socket};

/// Handshakes under way at once.
const CONNECTING: usize = 100;

/// One client of the crowd.
pub(crate) struct Member {
    pub(crate) user: String,
}

/// Clients, by number in the order in which they were let in. Dropping it closes all.
pub(crate) struct Crowd {
    pub(crate) members: Vec<Member>,
    events: mpsc::UnboundedReceiver<(usize, Event)>,
    sender: mpsc::UnboundedSender<(usize, Event)>,
    tasks: JoinSet<()>,
}

impl Crowd {
    pub(crate) fn new() -> Self {
        let (sender, events) = mpsc::unbounded_channel();
        Self {
            members: Vec::new(),
            events,
            sender,
            tasks: JoinSet::new(),
        }
    }

    /// Users `<prefix>0` to `<prefix><count - 1>`, all on one node.
    pub(crate) async fn of(node: &Node, prefix: &str, count: usize) -> Self {
        let mut crowd = Self::new();
        let address = node.client_address();
        let users = (0..count).map(|i| (address, format!("{prefix}{i}")));
        crowd.join(users).await;
        crowd
    }

    /// Lets one client in for each address and user; back when all of them are.
    pub(crate) async fn join(&mut self, users: impl IntoIterator<Item = (SocketAddr, String)>) {
        self.join_as(users, false).await;
    }

    pub(crate) async fn join_as(
        &mut self,
        users: impl IntoIterator<Item = (SocketAddr, String)>,
        v1: bool,
    ) {
        raise_file_limit();
        let connects = users.into_iter().map(async |(address, user)| {
            let socket = Socket::connect(address, &format!("user={user}"), v1).await;
            (user, socket)
        });
        let mut connecting = futures::stream::iter(connects).buffered(CONNECTING);
        while let Some((user, mut socket)) = connecting.next().await {
            let (number, sender) = (self.members.len(), self.sender.clone());
            self.tasks.spawn(async move {
                loop {
                    let event = socket.event().await;
                    let end = event == Event::End;
                    if sender.send((number, event)).is_err() || end {
                        return;
                    }
                }
            });
            self.members.push(Member { user });
        }
    }

    /// What is heard next, and by whom.
    pub(crate) async fn next(&mut self) -> (usize, Event) {
        let event = tokio::time::timeout(PATIENCE, self.events.recv()).await;
        event
            .expect("somebody hears something in time")
            .expect("the crowd holds a sender")
    }

    /// All that is heard until each of these members has heard `marker` (left out of the answer).
    pub(crate) async fn hear_until(
        &mut self,
        marker: &str,
        members: impl IntoIterator<Item = usize>,
    ) -> Vec<(usize, String)> {
        let mut open: HashSet<usize> = members.into_iter().collect();
        let mut heard = Vec::new();
        while !open.is_empty() {
            let event = tokio::time::timeout(PATIENCE, self.events.recv()).await;
            match event {
                Ok(Some((who, Event::Text(text)))) if text == marker => {
                    open.remove(&who);
                }
                Ok(Some((who, Event::Text(text)))) => heard.push((who, text)),
                Ok(Some((who, event))) => {
                    let user = &self.members[who].user;
                    panic!("{user} did not get {marker} but {event:?}");
                }
                _ => panic!(
                    "{} of {} clients still wait for {marker}; other messages heard: {}, the last {:?}",
                    open.len(),
                    self.members.len(),
                    heard.len(),
                    heard.last()
                ),
            }
        }
        heard
    }

    /// As [`Crowd::hear_until`], for everybody.
    pub(crate) async fn all_hear_until(&mut self, marker: &str) -> Vec<(usize, String)> {
        self.hear_until(marker, 0..self.members.len()).await
    }

    /// What has been heard already.
    pub(crate) fn heard_by_now(&mut self) -> Vec<(usize, Event)> {
        std::iter::from_fn(|| self.events.try_recv().ok()).collect()
    }
}

/// Thousands of sockets need more than the usual 1,024.
fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    // If it is refused, the connects say so.
    let _ = setrlimit(Resource::Nofile, raised);
}
