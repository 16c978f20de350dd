use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;

use futures::future::{join, join_all};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpListener;
use tokio::sync::{Notify, Semaphore};
use tokio::time::advance;

use super::*;

const ANSWER: &str = "HTTP/1.1 200 X\r\ncontent-length: 2\r\n\r\n{}";
const BOUNDS: HttpBounds = HttpBounds {
    time: Duration::from_secs(60),
    bytes: 64,
};

/// Timers of tokio are late by up to this.
const TICK: Duration = Duration::from_millis(1);

/// What the server does to the question of this number on this connection.
#[derive(Clone, Copy)]
enum Deed {
    Answer,
    /// The head, and after a moment the body.
    InTwo,
    /// Answers, and closes without a word of it.
    Last,
    /// Answers, and closes when it is told to: after the pool has kept the connection.
    Leave,
    /// Answers, and then says more than it should.
    TooMuch,
    /// Closes instead of an answer.
    Close,
    /// No answer, until the other side closes.
    Hold,
}

struct Counts {
    opened: AtomicUsize,
    ended: AtomicUsize,
    asked: AtomicUsize,
    /// Something was counted.
    counted: Notify,
    /// One permit lets one connection of [`Deed::Leave`] close.
    leave: Semaphore,
}

impl Default for Counts {
    fn default() -> Self {
        Self {
            opened: AtomicUsize::default(),
            ended: AtomicUsize::default(),
            asked: AtomicUsize::default(),
            counted: Notify::new(),
            leave: Semaphore::new(0),
        }
    }
}

impl Counts {
    fn add(&self, count: &AtomicUsize) -> usize {
        let was = count.fetch_add(1, Ordering::SeqCst);
        self.counted.notify_waiters();
        was
    }

    fn all(&self) -> [usize; 3] {
        [&self.opened, &self.ended, &self.asked].map(|count| count.load(Ordering::SeqCst))
    }

    async fn until(&self, count: &AtomicUsize, reached: usize) {
        loop {
            let counted = self.counted.notified();
            if count.load(Ordering::SeqCst) >= reached {
                return;
            }
            counted.await;
        }
    }

    async fn until_ended(&self, reached: usize) {
        self.until(&self.ended, reached).await;
    }
}

/// Time passes only by `advance`, however long this machine takes: the clock of a test that waits
/// for sockets would else jump to the next timer. A blocking task holds it.
struct FrozenClock(#[expect(dead_code, reason = "its end ends the task")] mpsc::Sender<()>);

fn freeze() -> FrozenClock {
    let (held, end) = mpsc::channel();
    tokio::task::spawn_blocking(move || end.recv());
    tokio::time::pause();
    FrozenClock(held)
}

/// A pool, and the server that it leads to: `deed` is told the numbers of connection and question.
async fn pool(
    deed: impl Fn(usize, usize) -> Deed + Send + Sync + 'static,
) -> (HttpPool, Arc<Counts>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!(
        "http://{}/hook?key=k",
        listener.local_addr().expect("an address")
    );
    let (counts, deed) = (Arc::new(Counts::default()), Arc::new(deed));
    let counted = counts.clone();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let (counts, deed) = (counted.clone(), deed.clone());
            let number = counts.add(&counts.opened);
            tokio::spawn(async move {
                serve(BufReader::new(socket), &counts, |question| {
                    deed(number, question)
                })
                .await;
                counts.add(&counts.ended);
            });
        }
    });
    let url = HttpUrl::parse(&url).expect("a URL");
    (HttpPool::new(&HttpClient::new(), url), counts)
}

async fn serve(mut socket: BufReader<TcpStream>, counts: &Counts, deed: impl Fn(usize) -> Deed) {
    for question in 0.. {
        if !has_read(&mut socket).await {
            return;
        }
        counts.add(&counts.asked);
        let deed = deed(question);
        let (head, body) = ANSWER.split_at(ANSWER.len() - 2);
        let words = match deed {
            Deed::Answer | Deed::Last | Deed::Leave => ANSWER.to_owned(),
            Deed::TooMuch => ANSWER.repeat(2),
            Deed::InTwo => {
                if socket.write_all(head.as_bytes()).await.is_err() {
                    return;
                }
                // The other side sees the one before the other.
                for _ in 0..8 {
                    tokio::task::yield_now().await;
                }
                body.to_owned()
            }
            Deed::Close => return,
            Deed::Hold => {
                let _ = socket.read_u8().await;
                return;
            }
        };
        let written = socket.write_all(words.as_bytes()).await;
        if written.is_err() || matches!(deed, Deed::Last) {
            return;
        }
        if matches!(deed, Deed::Leave) {
            counts.leave.acquire().await.expect("never closed").forget();
            return;
        }
    }
}

/// Whether a whole question came, and as it should be.
async fn has_read(socket: &mut BufReader<TcpStream>) -> bool {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if !matches!(socket.read_line(&mut head).await, Ok(1..)) {
            return false;
        }
    }
    let is_right =
        head.starts_with("POST /hook?key=k HTTP/1.1\r\n") && head.contains("\r\nhost: 127.0.0.1:");
    let mut body = [0; 2];
    is_right && socket.read_exact(&mut body).await.is_ok()
}

async fn post(pool: &HttpPool) -> Result<HttpAnswer, HttpFailure> {
    let headers = [("pushnode-id", "1"), ("pushnode-signature", "s")];
    let json = Bytes::from_static(b"{}");
    pool.post(headers, json, BOUNDS, Over::Any).await
}

async fn answered(pool: &HttpPool) {
    let answer = post(pool).await.expect("an answer");
    assert_eq!((answer.status, &*answer.body), (200, &b"{}"[..]));
}

#[tokio::test]
async fn one_call_after_another_needs_one_connection() {
    let _clock = freeze();
    let (pool, counts) = pool(|_, _| Deed::InTwo).await;
    for _ in 0..20 {
        answered(&pool).await;
    }
    assert_eq!(counts.all(), [1, 0, 20]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn there_are_never_more_connections_than_calls_under_way() {
    let (pool, counts) = pool(|connection, question| match (connection + question) % 3 {
        0 => Deed::InTwo,
        _ => Deed::Answer,
    })
    .await;
    let (pool, slots) = (Arc::new(pool), Arc::new(Semaphore::new(8)));
    let began = Instant::now();
    let calls = (0..800).map(|_| {
        let (pool, slots) = (pool.clone(), slots.clone());
        tokio::spawn(async move {
            let _slot = slots.acquire().await.expect("never closed");
            answered(&pool).await;
        })
    });
    for call in join_all(calls).await {
        call.expect("answered");
    }
    let [opened, ended, asked] = counts.all();
    assert_eq!(asked, 800);
    // Each lives for IDLE at least: on a machine that slow, eight others may come then.
    let most = 8 * (1 + began.elapsed().as_secs() / IDLE.as_secs());
    assert!(opened as u64 <= most, "{opened} opened, {ended} ended");
}

#[tokio::test]
async fn the_one_used_last_is_used_next_and_the_others_end_in_time() {
    let _clock = freeze();
    let used = Arc::new(Mutex::new(Vec::new()));
    let noted = used.clone();
    let (pool, counts) = pool(move |connection, _| {
        noted.lock().push(connection);
        Deed::Answer
    })
    .await;
    join_all((0..3).map(|_| answered(&pool))).await;
    advance(IDLE / 2 + TICK).await;
    used.lock().clear();
    for _ in 0..5 {
        answered(&pool).await;
    }
    assert_eq!(counts.all(), [3, 0, 8]);
    assert!(used.lock().windows(2).all(|pair| pair[0] == pair[1]));
    advance(IDLE / 2 + TICK).await;
    counts.until_ended(2).await;
    answered(&pool).await;
    assert_eq!(counts.all(), [3, 2, 9]);
    advance(IDLE - TICK).await;
    answered(&pool).await;
    assert_eq!(counts.all(), [3, 2, 10]);
    // Also once there was none for a while.
    for ended in 3..6 {
        advance(IDLE + TICK).await;
        counts.until_ended(ended).await;
        answered(&pool).await;
        assert_eq!(counts.all()[..2], [ended + 1, ended]);
    }
}

#[tokio::test]
async fn a_connection_that_the_server_closed_is_not_used() {
    let _clock = freeze();
    // The first three are closed after their first answer.
    let (pool, counts) = pool(|connection, _| match connection {
        0..3 => Deed::Last,
        _ => Deed::Answer,
    })
    .await;
    join_all((0..3).map(|_| answered(&pool))).await;
    counts.until_ended(3).await;
    // The runtime looks at its sockets.
    tokio::task::yield_now().await;
    answered(&pool).await;
    answered(&pool).await;
    assert_eq!(counts.all(), [4, 3, 5]);
}

/// The pool holds each when the server closes it, and learns of it only by the next call.
#[tokio::test]
async fn a_call_that_meets_closed_connections_goes_over_a_new_one() {
    let (pool, counts) = pool(|connection, _| match connection {
        0..3 => Deed::Leave,
        _ => Deed::Answer,
    })
    .await;
    join_all((0..3).map(|_| answered(&pool))).await;
    assert_eq!(pool.unused.lock().connections.len(), 3);
    counts.leave.add_permits(3);
    counts.until_ended(3).await;
    // The runtime looks at its sockets.
    tokio::task::yield_now().await;
    answered(&pool).await;
    answered(&pool).await;
    assert_eq!(counts.all(), [4, 3, 5]);
}

#[tokio::test]
async fn a_question_that_was_sent_is_not_sent_again() {
    let (pool, counts) = pool(|connection, question| match (connection, question) {
        (0, 1) | (1, 0) => Deed::Close,
        _ => Deed::Answer,
    })
    .await;
    answered(&pool).await;
    for _ in 0..2 {
        let failure = post(&pool).await.expect_err("no answer");
        assert_eq!(failure, HttpFailure::Broken);
    }
    assert_eq!(counts.all()[2], 3);
    answered(&pool).await;
    assert_eq!(counts.all()[2], 4);
}

/// One that was not in use makes room for it.
#[tokio::test]
async fn a_call_over_a_new_connection_does_not_make_them_more() {
    let _clock = freeze();
    let (pool, counts) = pool(|_, _| Deed::Answer).await;
    join_all((0..2).map(|_| answered(&pool))).await;
    let headers = [("pushnode-id", "1"), ("pushnode-signature", "s")];
    for opened in 3..6 {
        let json = Bytes::from_static(b"{}");
        let answer = pool.post(headers, json, BOUNDS, Over::New).await;
        assert_eq!(answer.expect("an answer").status, 200);
        counts.until_ended(opened - 2).await;
        assert_eq!(counts.all(), [opened, opened - 2, opened]);
        assert_eq!(pool.unused.lock().connections.len(), 2);
    }
}

#[tokio::test]
async fn a_connection_ends_with_a_call_that_ends_early() {
    let _clock = freeze();
    let (pool, counts) = pool(|connection, _| match connection {
        0 | 1 => Deed::Hold,
        _ => Deed::Answer,
    })
    .await;
    let too_late = async {
        counts.until(&counts.asked, 1).await;
        advance(BOUNDS.time + TICK).await;
    };
    let (failure, ()) = join(post(&pool), too_late).await;
    assert_eq!(failure.expect_err("no answer"), HttpFailure::TimedOut);
    counts.until_ended(1).await;
    tokio::select! {
        () = answered(&pool) => panic!("answered"),
        () = counts.until(&counts.asked, 2) => {}
    }
    counts.until_ended(2).await;
    answered(&pool).await;
    assert_eq!(counts.all(), [3, 2, 3]);
}

#[tokio::test]
async fn a_connection_that_said_too_much_is_not_used_again() {
    let _clock = freeze();
    let (pool, counts) = pool(|_, _| Deed::TooMuch).await;
    for _ in 0..3 {
        answered(&pool).await;
    }
    assert_eq!(counts.all()[0], 3);
}

#[tokio::test]
async fn connections_end_with_their_pool() {
    let (pool, counts) = pool(|_, _| Deed::Answer).await;
    join_all((0..3).map(|_| answered(&pool))).await;
    drop(pool);
    counts.until_ended(3).await;
}

#[test]
fn a_url_names_host_and_target() {
    for (url, host, target) in [
        ("http://a.example", "a.example", "/"),
        ("http://a.example:80/b?c=d", "a.example", "/b?c=d"),
        ("https://a.example:443?c", "a.example", "/?c"),
        ("https://a.example:80/", "a.example:80", "/"),
        ("http://[::1]:8080/b/", "[::1]:8080", "/b/"),
    ] {
        let read = HttpUrl::parse(url).expect(url);
        assert_eq!(read.host, host, "{url}");
        assert_eq!(read.target, target, "{url}");
    }
    assert!(HttpUrl::parse("/path").is_err());
}
