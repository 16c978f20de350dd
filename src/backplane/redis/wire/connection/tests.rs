//! The connection against servers that are played.

use tokio::io::{AsyncWriteExt, DuplexStream};
use tokio::sync::mpsc;

use super::*;
use crate::backplane::redis::wire::queue::only;
use crate::backplane::redis::wire::resp::Reply;

/// Leads to the servers that a test gives it, one after the other.
struct Played(tokio::sync::Mutex<mpsc::UnboundedReceiver<DuplexStream>>);

impl Door for Played {
    async fn open(&self) -> Result<RedisStream, Error> {
        let next = self.0.lock().await.recv().await;
        Ok(Box::new(next.ok_or_else(closed)?))
    }

    fn opened(&self) {}

    fn failed(&self, _: &Error) {}
}

struct Stage {
    wire: Wire,
    task: WireTask,
    servers: mpsc::UnboundedSender<DuplexStream>,
}

impl Stage {
    fn new() -> Self {
        let (servers, given) = mpsc::unbounded_channel();
        let (wire, task) = Wire::open(Played(tokio::sync::Mutex::new(given)));
        Self {
            wire,
            task,
            servers,
        }
    }

    async fn server(&self) -> DuplexStream {
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        self.servers.send(ours).expect("it is dialled");
        theirs
    }

    fn ask(&self, word: &str) -> JoinHandle<Result<Reply, Error>> {
        let asked = self.wire.ask(|out| {
            resp::command(out, &[word.as_bytes()]);
            1
        });
        tokio::spawn(async move { only(asked.answers().await) })
    }
}

/// The words that came.
async fn heard(server: &mut DuplexStream, count: usize) -> Vec<String> {
    let (mut input, mut framer, mut words) = (BytesMut::new(), Framer::default(), Vec::new());
    while words.len() < count {
        server.read_buf(&mut input).await.expect("a command");
        while let Some(length) = framer.whole(&input).expect("RESP") {
            let Ok(Reply::List(command)) = resp::reply(&input.split_to(length)) else {
                panic!("no command");
            };
            let Some(Reply::Text(word)) = command.into_iter().next() else {
                panic!("no word");
            };
            words.push(String::from_utf8(word).expect("text"));
        }
    }
    words
}

fn kind(told: Result<Reply, Error>) -> ErrorKind {
    told.expect_err("no answer").kind().clone()
}

#[tokio::test(start_paused = true)]
async fn answers_are_handed_out_in_the_order_of_the_questions() {
    let stage = Stage::new();
    let mut server = stage.server().await;
    let asked: Vec<_> = ["a", "b", "c"].map(|word| stage.ask(word)).into();
    assert_eq!(heard(&mut server, 3).await, ["a", "b", "c"]);
    // Cut, and with something that is no answer between.
    for piece in [&b":1\r"[..], b"\n-ERR no\r\n>1\r\n+x\r\n", b"*1\r\n+y\r\n"] {
        server.write_all(piece).await.expect("room");
        tokio::task::yield_now().await;
    }
    let mut told = Vec::new();
    for one in asked {
        told.push(one.await.expect("no panic"));
    }
    assert_eq!(told[0], Ok(Reply::Number(1)));
    assert_eq!(told[1].as_ref().expect_err("refused").details(), "ERR no");
    assert_eq!(told[2], Ok(Reply::List(vec![Reply::Text(b"y".into())])));
}

#[tokio::test(start_paused = true)]
async fn a_silent_connection_is_left_and_what_was_written_is_not_written_again() {
    let stage = Stage::new();
    let mut silent = stage.server().await;
    let (one, other) = (stage.ask("one"), stage.ask("other"));
    assert_eq!(heard(&mut silent, 2).await.len(), 2);
    let start = Instant::now();
    assert_eq!(kind(one.await.expect("no panic")), ErrorKind::Timeout);
    assert_eq!(kind(other.await.expect("no panic")), ErrorKind::Timeout);
    assert!(start.elapsed() <= COMMAND_TIMEOUT + CHECK);
    let mut next = stage.server().await;
    let third = stage.ask("third");
    assert_eq!(heard(&mut next, 1).await, ["third"]);
    next.write_all(b"+OK\r\n").await.expect("room");
    assert_eq!(
        third.await.expect("no panic"),
        Ok(Reply::Text(b"OK".into()))
    );
}

#[tokio::test(start_paused = true)]
async fn without_a_connection_commands_wait_for_a_while_and_are_not_written_later() {
    let stage = Stage::new();
    let (old, start) = (stage.ask("old"), Instant::now());
    tokio::time::sleep(COMMAND_TIMEOUT / 2).await;
    let new = stage.ask("new");
    assert_eq!(kind(old.await.expect("no panic")), ErrorKind::IO);
    assert!(start.elapsed() <= COMMAND_TIMEOUT + 2 * CHECK);
    let mut server = stage.server().await;
    assert_eq!(heard(&mut server, 1).await, ["new"]);
    server.write_all(b":7\r\n").await.expect("room");
    assert_eq!(new.await.expect("no panic"), Ok(Reply::Number(7)));
}

#[tokio::test(start_paused = true)]
async fn bytes_that_are_no_answer_end_the_connection() {
    let stage = Stage::new();
    let mut server = stage.server().await;
    let asked = stage.ask("a");
    heard(&mut server, 1).await;
    server.write_all(b"?\r\n").await.expect("room");
    assert_eq!(kind(asked.await.expect("no panic")), ErrorKind::Protocol);
    assert_eq!(
        server.read_u8().await.map_err(|error| error.kind()),
        Err(std::io::ErrorKind::UnexpectedEof)
    );
}

/// Asks one word whenever it is pulled.
struct Puller(mpsc::UnboundedSender<Option<Answers>>);

impl LateSource for Puller {
    fn pull(self: Arc<Self>, batch: &mut Batch<'_>) {
        let write = |out: &mut Vec<u8>| {
            resp::command(out, &[b"PULLED"]);
            1
        };
        let told = self.0.clone();
        batch.add(write, move |answers| _ = told.send(Some(answers)));
    }

    fn put_off(self: Arc<Self>) {
        let _ = self.0.send(None);
    }
}

#[tokio::test(start_paused = true)]
async fn a_source_is_pulled_at_the_write_and_told_exactly_once() {
    let stage = Stage::new();
    let (told, mut tellings) = mpsc::unbounded_channel();
    let source = Arc::new(Puller(told));
    assert!(!stage.wire.signal(source.clone()), "there is no connection");
    let mut server = stage.server().await;
    stage.wire.connected().await;
    let asked = stage.ask("ASKED");
    assert!(stage.wire.signal(source.clone()));
    assert_eq!(heard(&mut server, 2).await, ["ASKED", "PULLED"]);
    server.write_all(b":1\r\n:2\r\n").await.expect("room");
    assert_eq!(asked.await.expect("no panic"), Ok(Reply::Number(1)));
    let answers = tellings.recv().await.expect("told").expect("answers");
    assert_eq!(only(answers), Ok(Reply::Number(2)));
    // Under way when the connection is left.
    assert!(stage.wire.signal(source.clone()));
    assert_eq!(heard(&mut server, 1).await, ["PULLED"]);
    stage.task.end();
    let answers = tellings.recv().await.expect("told").expect("answers");
    assert_eq!(kind(only(answers)), ErrorKind::Canceled);
    assert!(!stage.wire.signal(source));
    assert_eq!(
        kind(stage.ask("late").await.expect("no panic")),
        ErrorKind::Canceled
    );
    assert!(tellings.try_recv().is_err(), "it was told twice");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_ends_each_connection_is_not_dialled_without_a_pause() {
    let stage = Stage::new();
    for _ in 0..4 {
        drop(stage.server().await);
    }
    let lasting = stage.server().await;
    // After pauses of 50, 100, 200 and 400 ms.
    sleep(Duration::from_millis(740)).await;
    assert!(!stage.wire.is_connected());
    sleep(Duration::from_millis(60)).await;
    assert!(stage.wire.is_connected());
    sleep(LASTED).await;
    let _next = stage.server().await;
    drop(lasting);
    sleep(Duration::from_millis(20)).await;
    assert!(stage.wire.is_connected(), "at once");
}
