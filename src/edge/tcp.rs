//! Plain TCP: the objects of `pushnode.v1`, one a line, for clients that are no browsers.
//!
//! The first line says who comes, as a query does elsewhere. From then on the socket is its
//! shard's, and nothing is different from a WebSocket but how objects are told apart.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};
use warp::http::{HeaderMap, StatusCode};

use crate::api::{ApiError, App};
use crate::edge::acceptor::{HEADER_TIMEOUT, Peer, Stream, last_words};
use crate::edge::handshake::{Settled, Wish, check_request, enter};
use crate::local::connection::Role;
use crate::protocol::Dialect;

/// Why there is no connection.
enum Refusal {
    /// The client hears why.
    Error(ApiError),
    /// It has gone.
    Gone,
}

impl From<ApiError> for Refusal {
    fn from(error: ApiError) -> Self {
        Self::Error(error)
    }
}

/// Lets a client in, or tells it why not.
pub(crate) async fn connect(app: Arc<App>, mut stream: impl Stream, peer: Peer) {
    match admit(&app, &mut stream, peer).await {
        Ok((settled, leftover)) => match stream.try_into() {
            Ok(socket) => settled.attach(socket, leftover).await,
            Err(error) => tracing::warn!(%error, "socket lost behind its first line"),
        },
        Err(Refusal::Error(error)) => {
            app.metrics.handshake_refused(error.code);
            last_words(stream, error.object() + "\n").await;
        }
        Err(Refusal::Gone) => {}
    }
}

async fn admit(
    app: &Arc<App>,
    stream: &mut impl Stream,
    peer: Peer,
) -> Result<(Settled, Bytes), Refusal> {
    let read = first_line(stream, app.config.max_message_bytes);
    let (line, leftover) = tokio::select! {
        read = tokio::time::timeout(HEADER_TIMEOUT, read) => read.map_err(|_| {
            let words = "the first line did not come within 10 s";
            ApiError::new(StatusCode::REQUEST_TIMEOUT, "timeout", words)
        })??,
        // Says below that the node is leaving.
        () = app.shutdown.begun() => (String::new(), Bytes::new()),
    };
    // A client that is no browser has no origin.
    check_request(app, &HeaderMap::new())?;
    let entered = enter(app, Wish::from_line(&line)?, Dialect::Lines, &peer).await?;
    let settled = Settled {
        app: app.clone(),
        entered,
        peer,
        role: Role::Client,
        head: Bytes::new(),
        silence: None,
    };
    Ok((settled, leftover))
}

/// Reads a line, and what came behind it.
async fn first_line(
    stream: &mut (impl AsyncRead + Unpin),
    most: usize,
) -> Result<(String, Bytes), Refusal> {
    let mut read = BytesMut::new();
    let end = loop {
        let begin = read.len();
        match stream.read_buf(&mut read).await {
            Ok(0) | Err(_) => return Err(Refusal::Gone),
            Ok(_) => {}
        }
        if let Some(end) = memchr::memchr(b'\n', &read[begin..]) {
            break begin + end;
        }
        if read.len() > most {
            let words = format!("the first line is over {most} bytes");
            let error = ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "too_big", &words);
            return Err(error.into());
        }
    };
    let line = read.split_to(end + 1);
    let line = std::str::from_utf8(&line[..end])
        .map_err(|_| ApiError::bad_request("the first line is not UTF-8"))?;
    Ok((line.to_owned(), read.freeze()))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(pieces: &[&[u8]]) -> Result<(String, Bytes), String> {
        let mut stream = tokio_test_stream(pieces);
        let read = first_line(&mut stream, 20).await;
        read.map_err(|refusal| match refusal {
            Refusal::Error(error) => error.object(),
            Refusal::Gone => "gone".to_owned(),
        })
    }

    /// A stream that gives these pieces one by one and then ends.
    fn tokio_test_stream(pieces: &[&[u8]]) -> impl AsyncRead + Unpin + use<> {
        let (mut writer, reader) = tokio::io::duplex(8);
        let bytes = pieces.concat();
        tokio::spawn(async move {
            use tokio::io::AsyncWriteExt as _;
            // The reader may have had enough.
            let _ = writer.write_all(&bytes).await;
        });
        reader
    }

    #[tokio::test]
    async fn the_first_line_ends_at_the_line_feed() {
        let (line, _) = read(&[b"{\"type\":\"x\"}\r\n"]).await.unwrap();
        assert_eq!(line, "{\"type\":\"x\"}\r");
        assert_eq!(read(&[b"no end"]).await.unwrap_err(), "gone");
        assert!(
            read(&[&[b'x'; 40]])
                .await
                .unwrap_err()
                .contains("over 20 bytes")
        );
        assert!(read(&[b"\xFF\n"]).await.unwrap_err().contains("not UTF-8"));
    }
}
