//! Which node of a cluster serves which slot.
//!
//! All known nodes are asked. For each slot the claim with the highest epoch counts, as it does
//! among the nodes themselves, so a frozen or isolated node misleads no client. What must stay
//! true: a node that does not answer delays the others only briefly.
//!
//! fred 10.1: its cluster mode takes the next answer on a busy connection for the answer to
//! ASKING, so its routing is not used.

use std::collections::HashMap;
use std::time::Duration;

use fred::error::{Error, ErrorKind};
use fred::prelude::{Client, ClientLike, FredResult};
use fred::types::CustomCommand;
use futures::future::join_all;
use tokio::time::Instant;

use crate::backplane::redis::servers::asked::{self, AskedServer};
use crate::backplane::redis::servers::silence::Silence;
use crate::backplane::redis::servers::{SLOTS, Servers, UNSERVED};
use crate::config::redis_url::Host;

/// The time between two questions while all is well, and while a node does not answer.
const CALM: Duration = Duration::from_millis(500);
const TROUBLED: Duration = Duration::from_millis(150);
/// A node must answer within this time.
const ANSWER: Duration = Duration::from_millis(200);
/// How long all nodes may be silent before that is logged: connecting takes a moment at the start.
const PATIENCE: Duration = Duration::from_secs(2);

/// The servers, and for each slot the index of its server.
type Routing = (Vec<Host>, Box<[u16]>);

/// The owner of each slot: the epoch of the claim, and the claimant.
struct SlotOwners(Vec<Option<(u64, Host)>>);

/// Follows the cluster until the node ends.
pub(crate) async fn follow(servers: Servers, seeds: Vec<Host>) {
    tokio::select! {
        () = ask_around(&servers, seeds) => {}
        () = asked::follow(&servers) => {}
    }
}

/// Connections to the nodes that the URL names.
fn dial(servers: &Servers, seeds: Vec<Host>) -> Vec<(Host, AskedServer)> {
    let mut asked = Vec::new();
    for seed in seeds {
        let url = servers.url().server(&seed);
        match url.and_then(|url| AskedServer::dial(servers, url)) {
            Some(server) => asked.push((seed, server)),
            None => tracing::error!(host = seed.0, "invalid address of a cluster node"),
        }
    }
    asked
}

/// Asks all known nodes, for ever.
async fn ask_around(servers: &Servers, seeds: Vec<Host>) {
    let mut asked = dial(servers, seeds);
    let mut current = Routing::default();
    let mut silences: HashMap<Host, Silence> = HashMap::new();
    let (mut answered, mut complained) = (Instant::now(), false);
    loop {
        asked.iter_mut().for_each(|(_, seed)| seed.check(servers));
        let all = servers.servers();
        let seeds = asked.iter().map(|(seed, server)| (seed, server.client()));
        let masters = all
            .iter()
            .filter_map(|server| Some((server.host.as_ref()?, &server.client)));
        let masters: Vec<_> = masters.collect();
        let questions = masters
            .iter()
            .copied()
            .chain(seeds)
            .map(async |(host, client)| {
                let answer = tokio::time::timeout(ANSWER, ask(client)).await;
                (host, client, answer.is_err(), answer)
            });
        let mut owners = SlotOwners(vec![None; SLOTS]);
        let (mut views, mut troubled) = (0, false);
        let answers = join_all(questions).await;
        for (number, (host, client, silent, answer)) in answers.into_iter().enumerate() {
            if let Ok(Ok(view)) = answer {
                views += 1;
                owners.add(&view, host);
            } else {
                // A dead seed does not matter as long as the masters answer.
                troubled |= number < masters.len();
            }
            if number < masters.len() {
                let silence = silences.entry(host.clone()).or_default();
                silence.note(servers, Some(host), client, !silent);
            }
        }
        if views == 0 {
            if answered.elapsed() > PATIENCE && !std::mem::replace(&mut complained, true) {
                tracing::warn!("no node of the cluster answers; retrying");
            }
        } else if let Some(routes) = owners.routes() {
            answered = Instant::now();
            if std::mem::take(&mut complained) {
                tracing::info!("the cluster answers again");
            }
            if routes != current {
                current = routes.clone();
                servers.lead(routes.0, routes.1).await;
                silences.clear();
            }
        }
        let pause = if troubled || views == 0 {
            TROUBLED
        } else {
            CALM
        };
        let _ = tokio::time::timeout(pause, servers.doubted()).await;
        // However many errors are reported: at most twenty questions a second.
        tokio::time::sleep(TROUBLED / 3).await;
    }
}

async fn ask(client: &Client) -> FredResult<String> {
    if !client.is_connected() {
        // Otherwise the question would wait for a connection, and later ones after it.
        return Err(Error::new(ErrorKind::IO, "not connected"));
    }
    let command = CustomCommand::new_static("CLUSTER", None, false);
    client.custom(command, vec!["NODES"]).await
}

impl SlotOwners {
    /// Adds one node's view (the answer to `CLUSTER NODES`); `asked` is the node's own address.
    fn add(&mut self, view: &str, asked: &Host) {
        for line in view.lines() {
            // id address flags master ping pong epoch servers slot slot ...
            let words: Vec<&str> = line.split(' ').collect();
            let [_, address, flags, _, _, _, epoch, _, slots @ ..] = &words[..] else {
                continue;
            };
            let (Some(host), Ok(epoch)) = (host(address, asked), epoch.parse::<u64>()) else {
                continue;
            };
            if !flags.split(',').any(|flag| flag == "master") {
                continue;
            }
            // A migrating slot is listed once more, in brackets.
            for slots in slots.iter().filter(|slots| !slots.starts_with('[')) {
                let (first, last) = slots.split_once('-').unwrap_or((slots, slots));
                let (Ok(first), Ok(last)) = (first.parse::<usize>(), last.parse::<usize>()) else {
                    continue;
                };
                for owner in self.0.iter_mut().take(last + 1).skip(first) {
                    if owner.as_ref().is_none_or(|(other, _)| *other < epoch) {
                        *owner = Some((epoch, host.clone()));
                    }
                }
            }
        }
    }

    /// The servers, sorted, and for each slot the index of its server. `None` if no slot is served.
    fn routes(&self) -> Option<Routing> {
        let mut hosts: Vec<Host> = Vec::new();
        for (_, host) in self.0.iter().flatten() {
            if hosts.last() != Some(host) && !hosts.contains(host) {
                hosts.push(host.clone());
            }
        }
        hosts.sort();
        let index = |owner: &Option<(u64, Host)>| {
            let (_, host) = owner.as_ref()?;
            u16::try_from(hosts.binary_search(host).ok()?).ok()
        };
        let slots = self.0.iter().map(|owner| index(owner).unwrap_or(UNSERVED));
        let slots: Box<[u16]> = slots.collect();
        (!hosts.is_empty()).then_some((hosts, slots))
    }
}

/// Parses `ip:port@bus[,name]`. A node that does not know its own address yet leaves it out.
fn host(address: &str, asked: &Host) -> Option<Host> {
    let (address, rest) = address.split_once('@')?;
    let name = rest.split(',').nth(1).filter(|name| !name.is_empty());
    let (ip, port) = address.rsplit_once(':')?;
    let host = match (name, ip) {
        (Some(name), _) => name,
        (None, "") => &asked.0,
        (None, ip) => ip,
    };
    Some((host.to_owned(), port.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(port: u16) -> Host {
        ("10.0.0.1".to_owned(), port)
    }

    #[test]
    fn the_newest_claim_to_a_slot_counts() {
        let mut owners = SlotOwners(vec![None; SLOTS]);
        let old = "\
a 10.0.0.1:1@11 myself,master - 0 0 1 connected 0-8191\n\
b 10.0.0.1:2@12,name.example master - 0 0 2 connected 8192-16382 [3->-b]\n\
c 10.0.0.1:3@13 slave a 0 0 1 connected\n";
        let new = "\
a :1@11 master,fail - 0 0 1 connected\n\
c :3@13 myself,master - 0 0 3 connected 0-8190 8191\n";
        owners.add(old, &at(1));
        owners.add(new, &at(3));
        owners.add(old, &at(1));
        let (hosts, slots) = owners.routes().expect("a server has a slot");
        assert_eq!(hosts, [at(3), ("name.example".to_owned(), 2)]);
        assert_eq!((slots[0], slots[8191], slots[8192]), (0, 0, 1));
        assert_eq!(slots[16383], UNSERVED);
    }

    #[test]
    fn no_slots_are_no_routes() {
        assert!(SlotOwners(vec![None; SLOTS]).routes().is_none());
    }
}
