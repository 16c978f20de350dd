use super::*;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use crate::shutdown::UnderWay;

fn pair(room: usize) -> (HttpStream<DuplexStream>, DuplexStream, Turn) {
    let (near, far) = tokio::io::duplex(room);
    let turn = Turn::default();
    let patience = HttpPatience::new(Duration::from_secs(75), Duration::from_secs(5));
    let ending = HttpEnding::new(Shutdown::default(), UnderWay::default().begin());
    let stream = HttpStream::new(near, patience, turn.clone(), ending);
    (stream, far, turn)
}

#[tokio::test(start_paused = true)]
async fn headers_have_10_s_and_an_idle_connection_its_own_time() {
    let (mut near, mut far, turn) = pair(64);
    let start = Instant::now();
    let mut bytes = [0; 8];
    assert_eq!(near.read(&mut bytes).await.unwrap(), 0);
    assert_eq!(start.elapsed().as_secs(), 10);

    // No body to read.
    turn.begin();
    turn.end();
    let start = Instant::now();
    assert_eq!(near.read(&mut bytes).await.unwrap(), 0);
    assert_eq!(start.elapsed().as_secs(), 75);

    // The first byte of a request begins the time for its headers.
    turn.begin();
    let reads = tokio::time::timeout(Duration::from_secs(100), near.read(&mut bytes));
    assert!(reads.await.is_err(), "a body has limits of its own");
    turn.end();
    let idle = tokio::time::timeout(Duration::from_secs(50), near.read(&mut bytes));
    assert!(idle.await.is_err());
    far.write_all(b"G").await.unwrap();
    assert_eq!(near.read(&mut bytes).await.unwrap(), 1);
    let start = Instant::now();
    assert_eq!(near.read(&mut bytes).await.unwrap(), 0);
    assert_eq!(start.elapsed().as_secs(), 10);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_not_taken_in_time_is_swallowed() {
    let (mut near, mut far, _turn) = pair(4);
    let start = Instant::now();
    near.write_all(b"12345678").await.unwrap();
    assert_eq!(start.elapsed().as_secs(), 5);
    near.write_all(b"more").await.unwrap();
    assert_eq!(near.read(&mut [0; 8]).await.unwrap(), 0);
    drop(near);
    let mut taken = Vec::new();
    far.read_to_end(&mut taken).await.unwrap();
    assert_eq!(taken, b"1234");
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_taken_byte_by_byte_has_a_minute() {
    let (mut near, mut far, _turn) = pair(1);
    let start = Instant::now();
    let dripping = tokio::spawn(async move {
        while far.read_u8().await.is_ok() {
            tokio::time::sleep(Duration::from_secs(4)).await;
        }
    });
    near.write_all(&[0; 1000]).await.unwrap();
    assert_eq!(start.elapsed().as_secs(), 60);
    drop(near);
    dripping.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_close_after_an_unread_body_waits_for_a_sender_but_not_without_end() {
    for (pause, seconds) in [(1, 10), (3, 2)] {
        let (mut near, mut far, turn) = pair(64);
        turn.set_unread(true);
        let sending = tokio::spawn(async move {
            while far.write_all(b"more").await.is_ok() {
                tokio::time::sleep(Duration::from_secs(pause)).await;
            }
        });
        let start = Instant::now();
        near.shutdown().await.unwrap();
        assert_eq!(start.elapsed().as_secs(), seconds);
        drop(near);
        sending.await.unwrap();
    }
    // All was read.
    let (mut near, _far, _turn) = pair(64);
    let start = Instant::now();
    near.shutdown().await.unwrap();
    assert_eq!(start.elapsed().as_secs(), 0);
}

#[tokio::test(start_paused = true)]
async fn writing_to_an_end_that_is_gone_goes_on() {
    let (mut near, far, _turn) = pair(4);
    drop(far);
    near.write_all(b"12345678").await.unwrap();
    assert_eq!(near.read(&mut [0; 8]).await.unwrap(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_connection_ends_with_the_node_after_what_has_come_is_read() {
    let closing = Shutdown::default();
    let under_way = UnderWay::default();
    let open = || {
        let (near, far) = tokio::io::duplex(64);
        let turn = Turn::default();
        let patience = HttpPatience::new(Duration::from_secs(75), Duration::from_secs(5));
        let ending = HttpEnding::new(closing.clone(), under_way.begin());
        (
            HttpStream::new(near, patience, turn.clone(), ending),
            far,
            turn,
        )
    };
    let (mut idle, _idle_far, turn) = open();
    turn.begin();
    turn.end();
    let (mut fresh, mut fresh_far, _) = open();
    let (mut silent, _silent_far, _) = open();
    fresh_far.write_all(b"GET").await.unwrap();
    closing.begin();
    let began = Instant::now();
    let mut buffer = [0; 8];
    assert_eq!(fresh.read(&mut buffer).await.unwrap(), 3);
    assert_eq!(idle.read(&mut buffer).await.unwrap(), 0);
    assert!(began.elapsed() < LAST_REQUEST);
    assert_eq!(
        under_way.count(),
        2,
        "first requests may still come on the others"
    );
    assert_eq!(silent.read(&mut buffer).await.unwrap(), 0);
    assert!(began.elapsed() >= LAST_REQUEST);
    drop(silent);
    drop(fresh);
    assert_eq!(under_way.count(), 0);
}
