//! Which node a client should connect to. No I/O: takes the table of live nodes, returns one.
//!
//! The table is as old as the last beat. So that all new clients of that interval do not go to
//! the node that was least loaded at the beat, clients sent to a node since then are added.

use std::collections::HashMap;
use std::str::FromStr;
use std::sync::Arc;

use crate::backplane::nodes::{NodeRecord, NodeState};
use crate::protocol::ids::NodeId;
use parking_lot::Mutex;

/// The strategy for choosing a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Strategy {
    /// The node with the fewest connections relative to its weight.
    #[default]
    LeastConnections,
    /// At random, in proportion to the weights.
    Weighted,
    /// Each node in turn.
    RoundRobin,
    /// At random.
    Random,
}

impl Strategy {
    /// The names of all strategies, as clients write them.
    pub(crate) const NAMES: &str = "least-connections, weighted, round-robin, random";

    /// Finds a strategy by the name that clients write.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::LeastConnections => "least-connections",
            Self::Weighted => "weighted",
            Self::RoundRobin => "round-robin",
            Self::Random => "random",
        }
    }
}

impl FromStr for Strategy {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let all = [
            Self::LeastConnections,
            Self::Weighted,
            Self::RoundRobin,
            Self::Random,
        ];
        let named = all.into_iter().find(|strategy| strategy.as_str() == text);
        named.ok_or(())
    }
}

/// The choices made so far.
#[derive(Debug, Default)]
pub(crate) struct Balance(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// The table to which `sent` is added.
    table: Arc<Vec<NodeRecord>>,
    sent: HashMap<NodeId, usize>,
    turn: usize,
}

impl Balance {
    /// Chooses a node that takes clients and has a URL; `None` if there is no such node.
    pub(crate) fn choose(
        &self,
        table: &Arc<Vec<NodeRecord>>,
        strategy: Strategy,
    ) -> Option<NodeRecord> {
        let takes_clients =
            |node: &&NodeRecord| node.state == NodeState::Up && !node.url.is_empty();
        let nodes: Vec<&NodeRecord> = table.iter().filter(takes_clients).collect();
        if nodes.is_empty() {
            return None;
        }
        let mut state = self.0.lock();
        if !Arc::ptr_eq(&state.table, table) {
            state.table = table.clone();
            state.sent.clear();
        }
        let chosen = match strategy {
            Strategy::Random => fastrand::choice(&nodes),
            Strategy::RoundRobin => {
                state.turn = state.turn.wrapping_add(1);
                nodes.get(state.turn % nodes.len())
            }
            Strategy::Weighted => {
                let total: u64 = nodes.iter().map(|node| u64::from(node.weight)).sum();
                let mut ticket = fastrand::u64(..total.max(1));
                nodes.iter().find(|node| {
                    let weight = u64::from(node.weight);
                    let won = ticket < weight;
                    ticket = ticket.saturating_sub(weight);
                    won
                })
            }
            Strategy::LeastConnections => {
                // Among equally loaded nodes, choose at random: each node that answers here has its
                // own table.
                let start = fastrand::usize(..nodes.len());
                let load = |node: &&&NodeRecord| {
                    let sent = state.sent.get(&node.node).copied().unwrap_or(0);
                    let load = (node.connections + sent) as f64 / f64::from(node.weight.max(1));
                    // Finite, so the order is total.
                    load.to_bits()
                };
                let (behind, before) = nodes.split_at(start);
                before.iter().chain(behind).min_by_key(load)
            }
        };
        let chosen: NodeRecord = (*chosen?).clone();
        *state.sent.entry(chosen.node.clone()).or_default() += 1;
        Some(chosen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, connections: usize, weight: u32) -> NodeRecord {
        NodeRecord {
            node: format!("{name}.1").parse().unwrap(),
            name: name.to_owned(),
            boot: "1".to_owned(),
            state: NodeState::Up,
            connections,
            started: 0,
            version: String::new(),
            url: format!("http://{name}"),
            weight,
            signs: false,
            rules: String::new(),
            degraded: false,
            unwritten: String::new(),
        }
    }

    fn chosen(nodes: Vec<NodeRecord>, strategy: Strategy, times: usize) -> HashMap<String, usize> {
        let (balance, table) = (Balance::default(), Arc::new(nodes));
        let mut counts = HashMap::new();
        for _ in 0..times {
            let node = balance.choose(&table, strategy).expect("a node");
            *counts.entry(node.name).or_default() += 1;
        }
        counts
    }

    #[test]
    fn the_emptiest_gets_them_until_it_is_no_emptier() {
        let nodes = vec![node("a", 100, 1), node("b", 40, 1), node("c", 0, 2)];
        // c takes 80 until it is level with b; the other 30 go 2 to 1.
        let counts = chosen(nodes, Strategy::LeastConnections, 110);
        assert_eq!(counts.get("a"), None);
        assert!((9..=11).contains(&counts["b"]), "{counts:?}");
        assert_eq!(counts["b"] + counts["c"], 110);
    }

    #[test]
    fn one_after_the_other() {
        let nodes = vec![node("a", 100, 1), node("b", 0, 9), node("c", 0, 1)];
        let counts = chosen(nodes, Strategy::RoundRobin, 30);
        assert!(counts.values().all(|count| *count == 10), "{counts:?}");
    }

    #[test]
    fn weights_are_chances() {
        let nodes = vec![node("a", 0, 1), node("b", 0, 9)];
        let counts = chosen(nodes, Strategy::Weighted, 10_000);
        assert!((500..=1500).contains(&counts["a"]), "{counts:?}");
        let counts = chosen(
            vec![node("a", 0, 1), node("b", 0, 9)],
            Strategy::Random,
            10_000,
        );
        assert!((4000..=6000).contains(&counts["a"]), "{counts:?}");
    }

    #[test]
    fn who_leaves_or_has_no_address_gets_none() {
        let mut leaving = node("a", 0, 1);
        leaving.state = NodeState::Draining;
        let mut hidden = node("b", 0, 1);
        hidden.url.clear();
        let table = Arc::new(vec![leaving, hidden]);
        for name in Strategy::NAMES.split(", ") {
            let strategy = name.parse().expect("a strategy");
            assert!(Balance::default().choose(&table, strategy).is_none());
        }
    }
}
