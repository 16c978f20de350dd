//! Faults of the name or address by which nodes find Redis: it leads to a demoted primary, says
//! nothing for a while, or is out of reach for one node for longer than its lease.

use std::io::Result;
use std::time::{Duration, Instant};

use crate::history::{Event, Micros, SECOND};
use crate::proxy::Proxy;
use crate::resp::Resp;
use crate::stage::Stage;
use crate::views::View;

/// A connect that began while the address was silent stays silent, and is given up after 2 s.
const GIVEN_UP: Micros = 2 * SECOND;
/// How long nodes are watched: longer than they may take.
const WATCH: Duration = Duration::from_secs(20);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(100);

impl Stage {
    /// The primary becomes a replica of its own replica, and lives on. Until the name leads to the new
    /// one, nothing is expected of the nodes.
    pub(crate) async fn demote(&self, late: Duration) -> Result<()> {
        let at = self.recorder.now();
        self.with_redis(|redis| redis.demote()).await?;
        tokio::time::sleep(late).await;
        let port = self.with_redis(|redis| redis.rename()).await?;
        let port = port.ok_or_else(|| std::io::Error::other("this Redis has no name"))?;
        self.ways.iter().for_each(|way| way.lead_to(port));
        self.fault("demotion", None, at);
        self.watch_followers("demotion", self.views.all(), Some(port))
            .await;
        Ok(())
    }

    /// The address of Redis goes silent for one node, or for all, while it is in use.
    pub(crate) async fn silence_address(&self, node: Option<usize>, time: Duration) -> Result<()> {
        let at = self.recorder.now();
        let whom = self.name(node).await;
        self.ways_of(node).for_each(Proxy::mute);
        tokio::time::sleep(time).await;
        self.ways_of(node).for_each(Proxy::unmute);
        let is_hit = |view: &View| whom.as_ref().is_none_or(|whom| *whom == view.id);
        let views = self.views.all().into_iter().filter(is_hit).collect();
        self.recorder.write(Event::Fault {
            kind: "address-silent".to_owned(),
            node: whom.clone(),
            at,
            until: self.recorder.now() + GIVEN_UP,
        });
        self.watch_followers("address-silent", views, None).await;
        Ok(())
    }

    /// One node is cut off until the others take it for dead. When its way opens, no connection has
    /// survived, and its commands are back before its subscription is: what senders remember of it
    /// meets a lease.
    pub(crate) async fn cut_off(&self, node: usize, time: Duration, late: Duration) -> Result<()> {
        let at = self.recorder.now();
        let whom = self.name(Some(node)).await;
        let way = &self.ways[node];
        way.close();
        tokio::time::sleep(time).await;
        way.reset();
        way.stall(&["SUBSCRIBE"], late);
        way.open();
        self.recorder.write(Event::Fault {
            kind: "cut-off".to_owned(),
            node: whom,
            at,
            until: self.recorder.now() + late.as_micros() as Micros,
        });
        Ok(())
    }

    /// Notes when each of these nodes serves: it says so, and listens at the server of this port.
    async fn watch_followers(&self, kind: &str, views: Vec<View>, port: Option<u16>) {
        let at = self.recorder.now();
        let watched = views.iter().map(|view| self.watch_follower(view, port));
        let served: Vec<Option<Micros>> = futures::future::join_all(watched).await;
        for (view, served) in views.into_iter().zip(served) {
            self.recorder.write(Event::Followed {
                node: view.id,
                kind: kind.to_owned(),
                at,
                served,
                until: self.recorder.now(),
            });
        }
    }

    async fn watch_follower(&self, view: &View, port: Option<u16>) -> Option<Micros> {
        let start = Instant::now();
        while start.elapsed() < WATCH {
            let is_there = match port {
                Some(port) => listens(view, port).await.unwrap_or(false),
                None => true,
            };
            if is_there && view.is_ready().await {
                return Some(self.recorder.now());
            }
            tokio::time::sleep(LOOK).await;
        }
        None
    }
}

/// Whether the node hears its channel at the server of this port.
async fn listens(view: &View, port: u16) -> Result<bool> {
    let channel = format!("pn:n:{{{}}}", view.id);
    let mut redis = Resp::connect(port).await?;
    let answer = redis.call(&["PUBSUB", "NUMSUB", &channel]).await?;
    Ok(answer.list().get(1).is_some_and(|count| count.number() > 0))
}
