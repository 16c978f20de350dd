//! Keys by the server that has them, so that one that is away holds up no look-up at another.
//!
//! What must stay true: each item is in exactly one lane, and the items of a lane keep their order.

use std::collections::HashMap;

/// Groups items by their lane, in the order in which the lanes first occur.
pub(crate) fn in_lanes<T>(items: Vec<T>, lane: impl Fn(&T) -> usize) -> Vec<Vec<T>> {
    let mut places = HashMap::new();
    let mut lanes: Vec<Vec<T>> = Vec::new();
    for item in items {
        let place = *places.entry(lane(&item)).or_insert(lanes.len());
        if place == lanes.len() {
            lanes.push(Vec::new());
        }
        lanes[place].push(item);
    }
    lanes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_item_is_in_one_lane_and_in_order() {
        let lanes = in_lanes(vec![5, 2, 3, 4, 7], |item| item % 2);
        assert_eq!(lanes, [vec![5, 3, 7], vec![2, 4]]);
        assert!(in_lanes(Vec::<u8>::new(), |_| 0).is_empty());
    }
}
