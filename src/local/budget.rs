//! How much the queues of all connections, the bodies that senders upload, and the lines that wait
//! for Redis may hold together (`PUSH_MEMORY_BYTES`).
//!
//! Of queues, counted is what stays in a queue because its socket takes no more: each place in a queue, and
//! each frame once, however many queues share it. What is written at once is never counted, so a
//! push to clients that read costs nothing here. Each shard has its part of the bound. It lets
//! clients go only if all together are over the bound and it is over its part. A body that does not
//! fit is refused, and a line is counted only: it belongs to a request that was taken.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;

use crate::telemetry::throttle::Throttle;

/// What a place in a queue takes beside the bytes of its frame.
pub(crate) const PLACE: usize = 64;
/// Frames that a shard remembers at least before it looks for those that are gone.
const LEAST_FORGOTTEN: usize = 1_024;
/// Between two lines in the log.
const PAUSE: Duration = Duration::from_secs(60);

/// The bound of a node, and what all its shards hold.
#[derive(Debug)]
pub(crate) struct Budget {
    limit: usize,
    shards: usize,
    held: AtomicUsize,
    /// Lines in the log about clients that were let go.
    pub(crate) complaints: Throttle,
}

impl Budget {
    pub(crate) fn new(limit: usize, shards: usize) -> Arc<Self> {
        Arc::new(Self {
            limit,
            shards: shards.max(1),
            held: AtomicUsize::new(0),
            complaints: Throttle::new(PAUSE),
        })
    }

    /// Bytes that all may hold.
    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    /// Bytes that they hold.
    pub(crate) fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    /// Counts bytes outside of the queues, whether they fit or not.
    pub(crate) fn claim(self: &Arc<Self>, bytes: usize) -> Claim {
        self.held.fetch_add(bytes, Ordering::Relaxed);
        Claim {
            bytes,
            whole: self.clone(),
        }
    }

    /// Counts bytes outside of the queues. `None`, and nothing counted, if they do not fit.
    pub(crate) fn try_claim(self: &Arc<Self>, bytes: usize) -> Option<Claim> {
        let claim = self.claim(bytes);
        // Beyond the bound clients go that take nothing, and beyond a quarter more also those that
        // only may be behind. A body is refused only where that makes no room: the queues would
        // else never grow so far that a client goes.
        let most = self.limit.saturating_add(self.limit / 8 * 3);
        (self.held() <= most).then_some(claim)
    }
}

/// Bytes that are held outside of the queues, until it is dropped.
#[derive(Debug)]
pub(crate) struct Claim {
    bytes: usize,
    whole: Arc<Budget>,
}

impl Claim {
    /// Counts so many bytes in all from now on. `false`, and nothing changed, if they do not fit.
    pub(crate) fn grow_to(&mut self, bytes: usize) -> bool {
        let Some(more) = bytes.checked_sub(self.bytes) else {
            return true;
        };
        let Some(mut more) = self.whole.try_claim(more) else {
            return false;
        };
        self.bytes += std::mem::take(&mut more.bytes);
        true
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.whole.held.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// A part of what a node holds: that of one shard.
#[derive(Debug)]
struct ShardPart {
    held: AtomicUsize,
    whole: Arc<Budget>,
}

impl ShardPart {
    fn add(&self, bytes: usize) {
        self.held.fetch_add(bytes, Ordering::Relaxed);
        self.whole.held.fetch_add(bytes, Ordering::Relaxed);
    }

    fn subtract(&self, bytes: usize) {
        self.held.fetch_sub(bytes, Ordering::Relaxed);
        self.whole.held.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// A frame that at least one queue holds. Gone with the last [`Hold`] on it.
#[derive(Debug)]
struct HeldFrame {
    bytes: usize,
    part: Arc<ShardPart>,
}

impl Drop for HeldFrame {
    fn drop(&mut self) {
        self.part.subtract(self.bytes);
    }
}

/// A place in a queue, and the queue's share of the frame there. It is to be dropped with that
/// frame: while it lives, no other frame can have the same address.
#[derive(Debug)]
pub(crate) struct Hold(Arc<HeldFrame>);

impl Hold {
    fn new(frame: Arc<HeldFrame>) -> Self {
        frame.part.add(PLACE);
        Self(frame)
    }

    /// What would be free without it, if all queues gave up their share of the frame.
    pub(crate) fn weight(&self) -> usize {
        PLACE + self.0.bytes / Arc::strong_count(&self.0)
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.0.part.subtract(PLACE);
    }
}

/// What the queues of one shard hold.
#[derive(Debug)]
pub(crate) struct Holds {
    part: Arc<ShardPart>,
    /// The frames held, by the address of their bytes. Those that are gone are forgotten when they
    /// are many.
    frames: HashMap<usize, Weak<HeldFrame>, ahash::RandomState>,
    /// How many frames are remembered when that is done next.
    forget_at: usize,
    /// Below this it is of no use to look again whom to let go: the last look found too few.
    look_at: usize,
}

impl Holds {
    pub(crate) fn new(budget: &Arc<Budget>) -> Self {
        let part = ShardPart {
            held: AtomicUsize::new(0),
            whole: budget.clone(),
        };
        Self {
            part: Arc::new(part),
            frames: HashMap::default(),
            forget_at: LEAST_FORGOTTEN,
            look_at: 0,
        }
    }

    pub(crate) fn budget(&self) -> &Arc<Budget> {
        &self.part.whole
    }

    /// Bytes that the queues of this shard hold.
    pub(crate) fn held(&self) -> usize {
        self.part.held.load(Ordering::Relaxed)
    }

    /// Counts a frame that stays in a queue, and `beside` for what the queue keeps with it.
    pub(crate) fn hold(&mut self, frame: &Bytes, beside: usize) -> Hold {
        let address = frame.as_ptr() as usize;
        if let Some(shared) = self.frames.get(&address).and_then(Weak::upgrade) {
            return Hold::new(shared);
        }
        if self.frames.len() >= self.forget_at {
            self.frames.retain(|_, frame| frame.strong_count() > 0);
            self.forget_at = LEAST_FORGOTTEN.max(2 * self.frames.len());
        }
        let bytes = frame.len() + beside;
        self.part.add(bytes);
        let held = Arc::new(HeldFrame {
            bytes,
            part: self.part.clone(),
        });
        self.frames.insert(address, Arc::downgrade(&held));
        Hold::new(held)
    }

    /// Whether this shard is to let clients go.
    pub(crate) fn must_shed(&self) -> bool {
        let budget = self.budget();
        // First what is false in nearly all cases.
        budget.held() > budget.limit && self.held() > self.share().max(self.look_at)
    }

    /// Whether so much is held beyond the bound that clients must go which may only be behind.
    pub(crate) fn is_pressing(&self) -> bool {
        let budget = self.budget();
        let more = |bytes: usize| bytes.saturating_add(bytes / 4);
        budget.held() > more(budget.limit) && self.held() > more(self.share())
    }

    /// Down to where clients are let go: a little below the bound, so that this is seldom done.
    pub(crate) fn target(&self) -> usize {
        self.share() / 8 * 7
    }

    /// This shard's part of the bound.
    pub(crate) fn share(&self) -> usize {
        let budget = self.budget();
        budget.limit / budget.shards
    }

    /// Clients have been let go, as far as there were such.
    pub(crate) fn has_shed(&mut self) {
        self.look_at = self.held().saturating_add(self.share() / 16);
    }

    /// Time has passed: others may have stalled.
    pub(crate) fn look_again(&mut self) {
        self.look_at = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shared_frame_counts_once_and_each_place_on_its_own() {
        let budget = Budget::new(10_000, 1);
        let mut holds = Holds::new(&budget);
        let (shared, own) = (Bytes::from(vec![1; 1_000]), Bytes::from(vec![2; 500]));
        let many: Vec<Hold> = (0..10).map(|_| holds.hold(&shared.clone(), 0)).collect();
        let one = holds.hold(&own, 20);
        assert_eq!(budget.held(), 1_000 + 520 + 11 * PLACE);
        assert_eq!(many[0].weight(), 100 + PLACE, "a tenth of it");
        assert_eq!(one.weight(), 520 + PLACE);
        drop(many);
        assert_eq!((budget.held(), holds.held()), (520 + PLACE, 520 + PLACE));
        drop(one);
        assert_eq!(budget.held(), 0);
    }

    #[test]
    fn what_is_claimed_counts_until_it_is_dropped_and_only_if_it_fits() {
        let budget = Budget::new(1_000, 1);
        let mut holds = Holds::new(&budget);
        let mut body = budget.try_claim(600).expect("it fits");
        assert!(budget.try_claim(776).is_none());
        assert_eq!(budget.held(), 600);
        assert!(!body.grow_to(1_376) && body.grow_to(900) && body.grow_to(100));
        let line = budget.claim(200);
        assert_eq!(budget.held(), 1_100, "a line is counted in any case");
        let frame = holds.hold(&Bytes::from(vec![0; 10]), 0);
        assert!(!holds.must_shed(), "the queues are within their part");
        drop((body, line, frame));
        assert_eq!(budget.held(), 0);
    }

    #[test]
    fn a_frame_at_the_address_of_one_that_is_gone_is_another() {
        let budget = Budget::new(10_000, 1);
        let mut holds = Holds::new(&budget);
        let frame = Bytes::from_static(&[0; 100]);
        drop(holds.hold(&frame, 0));
        let shorter = holds.hold(&frame.slice(..40), 0);
        assert_eq!(shorter.weight(), 40 + PLACE);
        assert_eq!(budget.held(), 40 + PLACE);
    }

    #[test]
    fn frames_that_are_gone_are_forgotten() {
        let budget = Budget::new(usize::MAX, 1);
        let mut holds = Holds::new(&budget);
        for size in 1..10 * LEAST_FORGOTTEN {
            // Different addresses: all of a shard's frames are on the heap at once, or were.
            let frame = Bytes::from(vec![0; size % 900 + 1]);
            std::mem::forget(frame.clone());
            drop(holds.hold(&frame, 0));
        }
        assert!(holds.frames.len() <= LEAST_FORGOTTEN);
    }

    #[test]
    fn a_shard_sheds_only_if_all_are_over_the_bound_and_it_is_over_its_part() {
        let budget = Budget::new(1_000, 2);
        let (mut one, mut other) = (Holds::new(&budget), Holds::new(&budget));
        let frame = |size| Bytes::from(vec![0; size]);
        let _first = one.hold(&frame(900 - PLACE), 0);
        assert!(!one.must_shed(), "all together are below the bound");
        let _second = other.hold(&frame(200 - PLACE), 0);
        assert!(one.must_shed());
        assert!(!other.must_shed(), "within its part");
        assert!(!one.is_pressing());
        let _third = one.hold(&frame(200 - PLACE), 0);
        assert!(one.is_pressing());
        one.has_shed();
        assert!(!one.must_shed(), "there was nothing to let go");
        one.look_again();
        assert!(one.must_shed());
    }
}
