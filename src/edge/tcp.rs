//! Plain TCP: the objects of `pushnode.v1`, one a line, for clients that are not browsers.
//!
//! The first line is the connect request, as the query is elsewhere. After it the socket belongs to
//! the client's shard, and only the framing of objects differs from a WebSocket.

use std::sync::Arc;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};
use warp::http::StatusCode;

use crate::app::App;
use crate::edge::error::HttpError;
use crate::edge::handshake::{check_leaving, enter};
use crate::edge::introduction::ClientWords;
use crate::edge::peer::{HEADER_TIMEOUT, Peer, Stream, last_words};
use crate::edge::refusal;
use crate::edge::upgrade::Upgrade;
use crate::local::connection::Role;
use crate::protocol::Dialect;
use crate::protocol::client::connect::ConnectRequest;

/// Why there is no connection.
enum NotAdmitted {
    /// The client hears why.
    Error(HttpError),
    /// It has gone.
    Gone,
}

impl From<HttpError> for NotAdmitted {
    fn from(error: HttpError) -> Self {
        Self::Error(error)
    }
}

/// Lets a client in, or tells it why not.
pub(crate) async fn connect(app: Arc<App>, mut stream: impl Stream, peer: Peer) {
    match admit(&app, &mut stream, peer).await {
        Ok((upgrade, leftover)) => match stream.try_into() {
            Ok(socket) => upgrade.attach(socket, leftover).await,
            Err(error) => tracing::warn!(%error, "socket lost after its first line"),
        },
        Err(NotAdmitted::Error(error)) => {
            last_words(stream, refusal::line(&app, &error)).await;
        }
        Err(NotAdmitted::Gone) => {}
    }
}

async fn admit(
    app: &Arc<App>,
    stream: &mut impl Stream,
    peer: Peer,
) -> Result<(Upgrade, Bytes), NotAdmitted> {
    let read = first_line(stream, app.config.max_message_bytes);
    let (line, leftover) = tokio::select! {
        read = tokio::time::timeout(HEADER_TIMEOUT, read) => read.map_err(|_| {
            let words = "the first line did not come within 10 s";
            HttpError::new(StatusCode::REQUEST_TIMEOUT, "timeout", words)
        })??,
        // The check below tells the client that the node is leaving.
        () = app.closing.begun() => (String::new(), Bytes::new()),
    };
    check_leaving(app)?;
    let request = ConnectRequest::from_line(&line).map_err(HttpError::from)?;
    let admitted = enter(
        app,
        request,
        ClientWords::Line(&line),
        Dialect::Lines,
        &peer,
    )
    .await?;
    let upgrade = Upgrade {
        hub: app.hub.clone(),
        admitted,
        peer,
        role: Role::Client,
        head: Bytes::new(),
        silence: None,
    };
    Ok((upgrade, leftover))
}

/// Reads a line that is not empty; answers also the bytes that came after it.
async fn first_line(
    stream: &mut (impl AsyncRead + Unpin),
    most: usize,
) -> Result<(String, Bytes), NotAdmitted> {
    let mut read = BytesMut::new();
    // Where the search for the end of the line goes on.
    let mut searched = 0;
    // Empty lines count, so that they do not go on for ever within the time.
    let mut skipped = 0;
    let end = loop {
        if let Some(at) = memchr::memchr(b'\n', &read[searched..]) {
            let end = searched + at;
            if !matches!(&read[..end], b"" | b"\r") {
                break end;
            }
            skipped += end + 1;
            read.advance(end + 1);
            searched = 0;
            continue;
        }
        if read.len() + skipped > most {
            let words = format!("the first line is over {most} bytes");
            let error = HttpError::new(StatusCode::PAYLOAD_TOO_LARGE, "too_big", words);
            return Err(error.into());
        }
        searched = read.len();
        match stream.read_buf(&mut read).await {
            Ok(0) | Err(_) => return Err(NotAdmitted::Gone),
            Ok(_) => {}
        }
    };
    let line = read.split_to(end + 1);
    let line = std::str::from_utf8(&line[..end])
        .map_err(|_| HttpError::bad_request("the first line is not UTF-8"))?;
    Ok((line.to_owned(), read.freeze()))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(pieces: &[&[u8]]) -> Result<(String, Bytes), String> {
        let mut stream = tokio_test_stream(pieces);
        let read = first_line(&mut stream, 20).await;
        read.map_err(|reason| match reason {
            NotAdmitted::Error(error) => error.object(),
            NotAdmitted::Gone => "gone".to_owned(),
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
        let (line, _) = read(&[b"\n\r\n", b"\n{\"type\":\"x\"}\n"]).await.unwrap();
        assert_eq!(line, "{\"type\":\"x\"}");
        let endless = read(&[&[b'\n'; 40]]).await;
        assert!(endless.unwrap_err().contains("over 20 bytes"));
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
