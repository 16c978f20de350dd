//! Answers of hooks that expire: which to ask for again, and when.

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::time::Instant;

/// Between two looks at what is due.
const STEP: Duration = Duration::from_millis(250);
/// Questions of one hook under way about connections that are here, so that new clients find
/// slots.
const MOST_RENEWALS: usize = 16;
/// After a question without an answer; up to as much again by chance.
const RETRY: Duration = Duration::from_secs(5);
/// How long an answer counts beyond its end while there is no other, unless it held for longer.
const GRACE: Duration = Duration::from_secs(60);
/// Between two looks for connections that have left.
const SWEEP: Duration = Duration::from_secs(60);

/// An answer that expires, and what is asked again.
#[derive(Debug, Clone)]
struct Expiring<V> {
    value: V,
    /// For how long the answer holds.
    period: Duration,
    /// When it ends.
    end: Instant,
    /// When to ask.
    due: Instant,
}

/// The answers of one hook that expire, and what asks for them again.
#[derive(Debug)]
pub(super) struct Renewals<K, V> {
    answers: Mutex<ExpiringAnswers<K, V>>,
    slots: Arc<Semaphore>,
}

impl<K: Clone + Ord + Hash, V: Clone> Renewals<K, V> {
    pub(super) fn new() -> Self {
        Self {
            answers: Mutex::new(ExpiringAnswers::new()),
            slots: Arc::new(Semaphore::new(MOST_RENEWALS)),
        }
    }

    /// An answer that holds for so long from now on; `None`: for good.
    pub(super) fn put(&self, key: K, value: V, period: Option<Duration>) {
        let mut answers = self.answers.lock();
        match period {
            Some(period) => answers.put(key, value, period),
            None => answers.forget(&key),
        }
    }

    pub(super) fn forget(&self, key: &K) {
        self.answers.lock().forget(key);
    }

    /// What is asked, unless it is no longer wanted.
    pub(super) fn value(&self, key: &K) -> Option<V> {
        self.answers.lock().value(key)
    }

    /// There was no answer: it is asked for again soon. Answers whether the old one still counts.
    pub(super) fn retry(&self, key: K) -> bool {
        self.answers.lock().retry(key)
    }

    /// Has `renew` ask again for what is due, for ever. `stays` says what is still wanted.
    pub(super) async fn keep<F>(&self, stays: impl Fn(&K) -> bool, renew: impl Fn(K) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let mut beat = tokio::time::interval(STEP);
        loop {
            beat.tick().await;
            let due = self.answers.lock().take(&stays);
            for key in due {
                let slot = self.slots.clone().acquire_owned().await;
                let slot = slot.expect("never closed");
                let renewal = renew(key);
                tokio::spawn(async move {
                    renewal.await;
                    drop(slot);
                });
            }
        }
    }
}

#[derive(Debug)]
struct ExpiringAnswers<K, V> {
    due: BTreeSet<(Instant, K)>,
    /// Those that are being asked for are here, and not in `due`.
    known: HashMap<K, Expiring<V>>,
    swept: Instant,
}

impl<K: Clone + Ord + Hash, V: Clone> ExpiringAnswers<K, V> {
    fn new() -> Self {
        Self {
            due: BTreeSet::new(),
            known: HashMap::new(),
            swept: Instant::now(),
        }
    }

    fn put(&mut self, key: K, value: V, period: Duration) {
        let end = Instant::now() + period;
        let due = end;
        let expiring = Expiring {
            value,
            period,
            end,
            due,
        };
        self.insert(key, expiring);
    }

    fn insert(&mut self, key: K, expiring: Expiring<V>) {
        self.forget(&key);
        self.due.insert((expiring.due, key.clone()));
        self.known.insert(key, expiring);
    }

    fn forget(&mut self, key: &K) {
        if let Some(before) = self.known.remove(key) {
            self.due.remove(&(before.due, key.clone()));
        }
    }

    fn value(&self, key: &K) -> Option<V> {
        self.known.get(key).map(|expiring| expiring.value.clone())
    }

    fn retry(&mut self, key: K) -> bool {
        let Some(mut expiring) = self.known.remove(&key) else {
            return true;
        };
        let now = Instant::now();
        if now >= expiring.end + expiring.period.max(GRACE) {
            return false;
        }
        expiring.due = now + RETRY.mul_f64(1.0 + fastrand::f64());
        self.insert(key, expiring);
        true
    }

    /// Takes what is due. From time to time those are forgotten that `stay` does not hold.
    fn take(&mut self, stay: impl Fn(&K) -> bool) -> Vec<K> {
        let now = Instant::now();
        if now - self.swept >= SWEEP {
            self.swept = now;
            let Self { due, known, .. } = self;
            known.retain(|key, expiring| {
                let stays = stay(key);
                if !stays {
                    due.remove(&(expiring.due, key.clone()));
                }
                stays
            });
        }
        let mut taken = Vec::new();
        while self.due.first().is_some_and(|(due, _)| *due <= now) {
            taken.extend(self.due.pop_first().map(|(_, key)| key));
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_counts_a_minute_beyond_its_end_while_there_is_no_other() {
        let mut renewals = ExpiringAnswers::new();
        renewals.put(1, "a", s(10));
        tokio::time::advance(s(10) - Duration::from_millis(1)).await;
        assert!(renewals.take(|_| true).is_empty());
        tokio::time::advance(Duration::from_millis(1)).await;
        let began = Instant::now();
        loop {
            if renewals.take(|_| true) == [1] && !renewals.retry(1) {
                break;
            }
            tokio::time::advance(s(1)).await;
        }
        assert!((GRACE..GRACE + 2 * RETRY + s(1)).contains(&began.elapsed()));
        assert_eq!(renewals.value(&1), None);
        assert!(renewals.due.is_empty() && renewals.known.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn those_that_have_left_are_forgotten() {
        let mut renewals = ExpiringAnswers::new();
        for key in 0..10 {
            renewals.put(key, "a", s(3600));
        }
        renewals.forget(&9);
        tokio::time::advance(SWEEP).await;
        assert!(renewals.take(|key| *key < 5).is_empty());
        assert_eq!((renewals.due.len(), renewals.known.len()), (5, 5));
        tokio::time::advance(s(3600)).await;
        assert_eq!(renewals.take(|_| true).len(), 5);
    }
}
