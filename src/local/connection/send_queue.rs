//! What waits for one connection: frames in order, bounded in bytes.
//!
//! A frame is one client's share of a message that may go to thousands; the bytes are shared.
//! Most of the time the queue holds nothing, and then it is one pointer without heap memory.

use std::io::IoSlice;
use std::sync::Arc;

use bytes::Bytes;
use smallvec::SmallVec;

use crate::local::budget::{Hold, Holds, PLACE};
use crate::local::receipt::Receipt;
use crate::protocol::{Message, Policy};

/// Charged for each frame beside its bytes, so that a million empty ones are not free.
const OVERHEAD: usize = PLACE;
/// Most frames in one `writev`. More gain nothing: the copy into the socket dominates.
pub(crate) const MAX_SLICES: usize = 64;

#[derive(Debug)]
struct Outgoing {
    frame: Bytes,
    /// The message it came from, where that matters later: to be replaced by key, or acknowledged.
    message: Option<Arc<Message>>,
    receipt: Option<Receipt>,
    /// Counts it in the node's budget, if it stayed here after a write.
    hold: Option<Hold>,
    /// A push, as against a frame of our own; only pushes are counted.
    is_push: bool,
}

/// What was written in full and may yet be acknowledged.
#[derive(Debug)]
pub(crate) struct Sent {
    pub(crate) message: Arc<Message>,
    pub(crate) receipt: Receipt,
}

/// How the queue took a message.
#[derive(Debug)]
pub(crate) enum Offer {
    /// It waits its turn.
    Queued,
    /// It took the place of an older one of its key, which is thereby dropped.
    Replaced(Option<Arc<Message>>),
    /// There is no room.
    Full,
}

/// What waits; there is something.
#[derive(Debug)]
struct QueuedFrames {
    /// Usually one alone, which then stands in the same box.
    frames: SmallVec<[Outgoing; 1]>,
    /// How much of the first frame is in the socket already.
    offset: usize,
    /// Sum of frames and their overhead.
    bytes: usize,
    /// Among those that are counted in the budget may be some that are not.
    has_gaps: bool,
}

impl QueuedFrames {
    /// A waiting frame of the same key, none of which is in the socket yet.
    fn same_key(&mut self, message: &Message) -> Option<&mut Outgoing> {
        let started = usize::from(self.offset > 0);
        self.frames[started..].iter_mut().find(|waiting| {
            waiting
                .message
                .as_ref()
                .is_some_and(|older| older.policy() == message.policy())
        })
    }
}

/// One pointer: of many connections few have something waiting.
#[derive(Debug, Default)]
pub(crate) struct Queue(Option<Box<QueuedFrames>>);

impl Queue {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Adds a frame of our own (pong, close, ready), whatever the bound: they are few and small.
    pub(crate) fn push(&mut self, frame: Bytes) {
        self.add(frame, false);
    }

    /// Puts the head of our answer to an HTTP request before all that has gathered. Only while
    /// there is no socket: nothing can be partly out.
    pub(crate) fn push_first(&mut self, head: Bytes) {
        self.push(head);
        if let Some(waiting) = &mut self.0 {
            waiting.frames.rotate_right(1);
        }
    }

    /// Adds a message of a page, whatever the bound: a page is only given to an empty queue.
    pub(crate) fn push_message(&mut self, frame: Bytes) {
        self.add(frame, true);
    }

    fn add(&mut self, frame: Bytes, is_push: bool) {
        self.enqueue(Outgoing {
            frame,
            message: None,
            receipt: None,
            hold: None,
            is_push,
        });
    }

    fn enqueue(&mut self, outgoing: Outgoing) {
        let bytes = outgoing.frame.len() + OVERHEAD;
        match &mut self.0 {
            Some(waiting) => {
                waiting.bytes += bytes;
                waiting.frames.push(outgoing);
            }
            None => {
                self.0 = Some(Box::new(QueuedFrames {
                    frames: SmallVec::from_buf([outgoing]),
                    offset: 0,
                    bytes,
                    has_gaps: false,
                }));
            }
        }
    }

    fn frames(&self) -> &[Outgoing] {
        self.0.as_ref().map_or(&[], |waiting| &waiting.frames)
    }

    /// Whether there is no room for this frame.
    pub(crate) fn is_full(&self, frame: &Bytes, bound: usize) -> bool {
        self.bytes() + frame.len() + OVERHEAD > bound && !self.is_empty()
    }

    /// Offers a message. One always fits into an empty queue, however large it is.
    pub(crate) fn offer(
        &mut self,
        frame: Bytes,
        message: &Arc<Message>,
        receipt: Option<&Receipt>,
        bound: usize,
    ) -> Offer {
        let keyed = matches!(message.policy(), Policy::Latest(_));
        if keyed
            && let Some(waiting) = &mut self.0
            && let Some(older) = waiting.same_key(message)
        {
            let length = frame.len();
            let replaced = std::mem::replace(&mut older.frame, frame);
            let older_message = older.message.replace(message.clone());
            older.receipt = receipt.cloned();
            older.hold = None;
            waiting.has_gaps = true;
            waiting.bytes = waiting.bytes - replaced.len() + length;
            return Offer::Replaced(older_message);
        }
        if self.is_full(&frame, bound) {
            return Offer::Full;
        }
        let wants_ack = receipt.is_some_and(Receipt::wants_ack);
        let message = (keyed || wants_ack).then(|| message.clone());
        self.enqueue(Outgoing {
            frame,
            message,
            receipt: receipt.cloned(),
            hold: None,
            is_push: true,
        });
        Offer::Queued
    }

    /// What to write next: the rest of the first frame, and whole ones after it.
    pub(crate) fn slices(&self) -> SmallVec<[IoSlice<'_>; MAX_SLICES]> {
        let mut slices = SmallVec::new();
        let mut skip = self.0.as_ref().map_or(0, |waiting| waiting.offset);
        for outgoing in self.frames().iter().take(MAX_SLICES) {
            slices.push(IoSlice::new(&outgoing.frame[skip..]));
            skip = 0;
        }
        slices
    }

    /// The only frame's rest, if there is just one: the usual case, a plain write.
    pub(crate) fn only(&self) -> Option<&[u8]> {
        let waiting = self.0.as_ref()?;
        match &waiting.frames[..] {
            [outgoing] => Some(&outgoing.frame[waiting.offset..]),
            _ => None,
        }
    }

    /// Notes that `written` bytes went into the socket; answers how many pushes that completed
    /// and hands those that may be acknowledged to `sent`.
    pub(crate) fn advance(&mut self, written: usize, mut sent: impl FnMut(Sent)) -> u64 {
        let Some(waiting) = &mut self.0 else {
            return 0;
        };
        let mut left = waiting.offset + written;
        let mut done = 0;
        let mut messages = 0;
        for outgoing in &mut waiting.frames {
            let length = outgoing.frame.len();
            if left < length {
                break;
            }
            left -= length;
            done += 1;
            waiting.bytes -= length + OVERHEAD;
            messages += u64::from(outgoing.is_push);
            if let Some(receipt) = outgoing.receipt.take() {
                receipt.written();
                if receipt.wants_ack()
                    && let Some(message) = outgoing.message.take()
                {
                    sent(Sent { message, receipt });
                }
            }
        }
        waiting.offset = left;
        if done == waiting.frames.len() {
            // Also gives back what a burst made it allocate.
            self.0 = None;
        } else {
            waiting.frames.drain(..done);
        }
        messages
    }

    /// Counts in the budget what stays here because the socket takes no more.
    pub(crate) fn hold(&mut self, holds: &mut Holds) {
        let Some(waiting) = &mut self.0 else {
            return;
        };
        let all = std::mem::take(&mut waiting.has_gaps);
        for outgoing in waiting.frames.iter_mut().rev() {
            if outgoing.hold.is_some() {
                if all {
                    continue;
                }
                break;
            }
            let message = outgoing.message.as_deref();
            let beside = message.map_or(0, |message| message.data().len());
            outgoing.hold = Some(holds.hold(&outgoing.frame, beside));
        }
    }

    /// What the node would have back without this queue: its share of what it holds.
    pub(crate) fn weight(&self) -> usize {
        let holds = self.frames().iter().filter_map(|one| one.hold.as_ref());
        holds.map(Hold::weight).sum()
    }

    /// How many bytes wait, with what is charged for each frame.
    pub(crate) fn bytes(&self) -> usize {
        self.0.as_ref().map_or(0, |waiting| waiting.bytes)
    }

    /// How many bytes of frames are not in the socket yet.
    pub(crate) fn left(&self) -> usize {
        let frames = self.frames().iter().map(|outgoing| outgoing.frame.len());
        frames.sum::<usize>() - self.0.as_ref().map_or(0, |waiting| waiting.offset)
    }

    /// How many pushes wait.
    pub(crate) fn pushes(&self) -> u64 {
        let pushes = self.frames().iter().filter(|outgoing| outgoing.is_push);
        pushes.count() as u64
    }

    /// Throws away all that is not partly in the socket; answers how many pushes.
    pub(crate) fn clear_unstarted(&mut self) -> u64 {
        let before = self.pushes();
        self.0 = self.0.take().filter(|waiting| waiting.offset > 0);
        if let Some(waiting) = &mut self.0 {
            waiting.frames.truncate(1);
            waiting.bytes = waiting.frames[0].frame.len() + OVERHEAD;
        }
        before - self.pushes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::local::budget::Budget;
    use crate::protocol::{Dialect, PushRequest};

    fn message(policy: &str, data: &str) -> Arc<Message> {
        let body = format!(r#"{{"to":{{"all":true}},"policy":"{policy}","data":"{data}"}}"#);
        PushRequest::parse(body.as_bytes()).unwrap().push.message
    }

    fn offer(queue: &mut Queue, message: &Arc<Message>, bound: usize) -> Offer {
        queue.offer(message.frame(Dialect::Plain), message, None, bound)
    }

    fn content(queue: &Queue) -> Vec<u8> {
        queue
            .slices()
            .iter()
            .flat_map(|slice| slice.to_vec())
            .collect()
    }

    #[test]
    fn the_bound_holds_but_one_message_always_fits() {
        let mut queue = Queue::default();
        let large = message("close", &"x".repeat(1000));
        assert!(matches!(offer(&mut queue, &large, 100), Offer::Queued));
        assert!(matches!(offer(&mut queue, &large, 100), Offer::Full));
        queue.advance(1006, |_| ());
        assert!(queue.is_empty());
        assert_eq!(queue.bytes(), 0);
        assert!(matches!(offer(&mut queue, &large, 100), Offer::Queued));
    }

    #[test]
    fn a_partial_write_goes_on_where_it_stopped() {
        let mut queue = Queue::default();
        for data in ["one", "two", "three"] {
            offer(&mut queue, &message("close", data), 10_000);
        }
        let whole = content(&queue);
        for step in 1..whole.len() {
            let mut queue = Queue::default();
            for data in ["one", "two", "three"] {
                offer(&mut queue, &message("close", data), 10_000);
            }
            let mut seen = Vec::new();
            let mut messages = 0;
            while !queue.is_empty() {
                let next = content(&queue);
                let take = step.min(next.len());
                seen.extend_from_slice(&next[..take]);
                messages += queue.advance(take, |_| ());
            }
            assert_eq!((seen, messages, queue.bytes()), (whole.clone(), 3, 0));
        }
    }

    #[test]
    fn the_latest_of_a_key_takes_the_place_unless_it_is_under_way() {
        let mut queue = Queue::default();
        offer(&mut queue, &message("latest:a", "1"), 10_000);
        offer(&mut queue, &message("latest:b", "2"), 10_000);
        let newer = message("latest:a", "3");
        assert!(matches!(
            offer(&mut queue, &newer, 10_000),
            Offer::Replaced(Some(_))
        ));
        assert_eq!(content(&queue), b"\x81\x03\"3\"\x81\x03\"2\"");
        queue.advance(1, |_| ());
        let newer = message("latest:a", "4");
        assert!(matches!(offer(&mut queue, &newer, 10_000), Offer::Queued));
        assert_eq!(content(&queue), b"\x03\"3\"\x81\x03\"2\"\x81\x03\"4\"");
    }

    #[test]
    fn what_stays_is_counted_once_whatever_takes_it_out_again() {
        let budget = Budget::new(usize::MAX, 1);
        let mut holds = Holds::new(&budget);
        let mut queue = Queue::default();
        let sizes = |queue: &Queue, holds: &Holds| (queue.weight(), holds.held());
        // Of a keyed one the message stays, too: its data are counted beside its frame.
        offer(&mut queue, &message("latest:a", "1"), 10_000);
        offer(&mut queue, &message("close", "22"), 10_000);
        assert_eq!(sizes(&queue, &holds), (0, 0), "nothing is held yet");
        queue.hold(&mut holds);
        queue.hold(&mut holds);
        let both = (5 + 3 + PLACE) + (6 + PLACE);
        assert_eq!(sizes(&queue, &holds), (both, both));
        offer(&mut queue, &message("latest:a", "333"), 10_000);
        queue.hold(&mut holds);
        assert_eq!(sizes(&queue, &holds), (both + 4, both + 4), "replaced");
        queue.advance(7, drop);
        assert_eq!(sizes(&queue, &holds), (6 + PLACE, 6 + PLACE), "written");
        queue.clear_unstarted();
        assert_eq!(sizes(&queue, &holds), (0, 0), "cleared");
        offer(&mut queue, &message("close", "1"), 10_000);
        queue.hold(&mut holds);
        drop(queue);
        assert_eq!(holds.held(), 0, "dropped");
    }

    #[test]
    fn clearing_keeps_the_frame_that_is_partly_out() {
        let mut queue = Queue::default();
        offer(&mut queue, &message("close", "1"), 10_000);
        offer(&mut queue, &message("close", "2"), 10_000);
        queue.advance(2, |_| ());
        assert_eq!(queue.clear_unstarted(), 1);
        assert_eq!(content(&queue), b"\"1\"");
    }
}
