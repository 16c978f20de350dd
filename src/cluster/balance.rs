//! Which node a client should go to. No I/O: the table of live nodes goes in, one comes out.
//!
//! The table is as old as the last beat. So that the clients of the meantime do not all go to
//! the node that was emptiest then, those sent somewhere since are counted on top.

use std::collections::HashMap;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};

use crate::backplane::nodes::{NodeRecord, NodeState};
use crate::protocol::ids::NodeId;

/// How a node is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Strategy {
    /// The one with the fewest connections for its weight.
    #[default]
    LeastConnections,
    /// By chance, in proportion to the weights.
    Weighted,
    /// One after the other.
    RoundRobin,
    /// By chance.
    Random,
}

impl Strategy {
    /// All, as clients name them.
    pub const NAMES: &str = "least-connections, weighted, round-robin, random";

    /// As clients name it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
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

/// What was handed out so far.
#[derive(Debug, Default)]
pub struct Balance(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// The table that `sent` counts on top of.
    table: Arc<Vec<NodeRecord>>,
    sent: HashMap<NodeId, usize>,
    turn: usize,
}

impl Balance {
    /// A node that takes clients and says where it can be reached; none if there is none.
    pub fn choose(&self, table: &Arc<Vec<NodeRecord>>, strategy: Strategy) -> Option<NodeRecord> {
        let takes_clients =
            |node: &&NodeRecord| node.state == NodeState::Up && !node.url.is_empty();
        let nodes: Vec<&NodeRecord> = table.iter().filter(takes_clients).collect();
        if nodes.is_empty() {
            return None;
        }
        // A poisoned lock guards counts, and those are hints.
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
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
                // Nodes that are level get their clients by chance: each node that answers
                // here has a table of its own.
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
