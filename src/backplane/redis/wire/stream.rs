//! A connection on which Redis was greeted, whatever carries it.

use bytes::{Buf, BytesMut};
use fred::error::{Error, ErrorKind};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::backplane::redis::wire::resp::{self, Framer, Malformed, Reply};

/// What carries the bytes: TCP, TLS, a Unix socket.
pub(crate) trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> ByteStream for T {}

pub(crate) type RedisStream = Box<dyn ByteStream>;

/// What a server said of itself when it was greeted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Greeting {
    pub(crate) is_replica: bool,
}

/// Speaks RESP3 from now on, as this user, with this database.
///
/// # Errors
/// What the server says against it, or that the connection broke.
pub(crate) async fn greet(
    stream: &mut RedisStream,
    login: Option<(&str, &str)>,
    database: u8,
) -> Result<Greeting, Error> {
    let mut out = Vec::new();
    match login {
        Some((user, password)) => {
            let login = [user.as_bytes(), password.as_bytes()];
            resp::command(&mut out, &[b"HELLO", b"3", b"AUTH", login[0], login[1]]);
        }
        None => resp::command(&mut out, &[b"HELLO", b"3"]),
    }
    stream.write_all(&out).await?;
    stream.flush().await?;
    let mut input = BytesMut::with_capacity(1024);
    let about = next(stream, &mut input).await?;
    if database != 0 {
        out.clear();
        resp::command(&mut out, &[b"SELECT", database.to_string().as_bytes()]);
        stream.write_all(&out).await?;
        stream.flush().await?;
        next(stream, &mut input).await?;
    }
    Ok(Greeting {
        is_replica: role_in(&about) == Some("replica"),
    })
}

/// The next answer, which no other follows.
async fn next(stream: &mut RedisStream, input: &mut BytesMut) -> Result<Reply, Error> {
    let mut framer = Framer::default();
    loop {
        if let Some(length) = framer.whole(input)? {
            let reply = resp::reply(&input[..length])?;
            input.advance(length);
            return accepted(reply);
        }
        if stream.read_buf(input).await? == 0 {
            return Err(closed());
        }
    }
}

/// The role in the answer to HELLO.
fn role_in(about: &Reply) -> Option<&str> {
    let Reply::List(fields) = about else {
        return None;
    };
    let (pairs, _) = fields.as_chunks::<2>();
    pairs.iter().find_map(|pair| match pair {
        [Reply::Text(key), Reply::Text(role)] if key == b"role" => std::str::from_utf8(role).ok(),
        _ => None,
    })
}

/// An answer that is no refusal.
///
/// # Errors
/// The refusal.
pub(crate) fn accepted(reply: Reply) -> Result<Reply, Error> {
    match reply {
        Reply::Refused(words) => Err(refused(words)),
        reply => Ok(reply),
    }
}

/// A refusal by Redis, of the kind that fred would give it.
fn refused(words: String) -> Error {
    let kind = match words.split(' ').next().unwrap_or_default() {
        "WRONGTYPE" => ErrorKind::InvalidArgument,
        "NOAUTH" | "WRONGPASS" => ErrorKind::Auth,
        "MOVED" | "ASK" | "CLUSTERDOWN" => ErrorKind::Cluster,
        _ => ErrorKind::Unknown,
    };
    Error::new(kind, words)
}

pub(crate) fn closed() -> Error {
    Error::new(ErrorKind::IO, "the connection was closed")
}

impl From<Malformed> for Error {
    fn from(Malformed(what): Malformed) -> Self {
        Error::new(ErrorKind::Protocol, what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn greeted(
        answers: &[&str],
        login: Option<(&str, &str)>,
        database: u8,
    ) -> (Result<Greeting, Error>, String) {
        let (ours, mut theirs) = tokio::io::duplex(4096);
        let mut ours: RedisStream = Box::new(ours);
        let answers: Vec<String> = answers.iter().map(|&answer| answer.to_owned()).collect();
        let server = tokio::spawn(async move {
            let mut heard = Vec::with_capacity(4096);
            for answer in answers {
                theirs.read_buf(&mut heard).await.expect("a command");
                theirs.write_all(answer.as_bytes()).await.expect("room");
            }
            String::from_utf8(heard).expect("text")
        });
        let told = greet(&mut ours, login, database).await;
        (told, server.await.expect("no panic"))
    }

    #[tokio::test]
    async fn a_server_is_greeted_with_what_it_wants_to_know() {
        let hello = "%2\r\n$5\r\nproto\r\n:3\r\n$4\r\nrole\r\n$7\r\nreplica\r\n";
        let (told, heard) = greeted(&[hello, "+OK\r\n"], Some(("u", "p w\"")), 7).await;
        assert!(told.expect("greeted").is_replica);
        let words = "*5\r\n$5\r\nHELLO\r\n$1\r\n3\r\n$4\r\nAUTH\r\n$1\r\nu\r\n$4\r\np w\"\r\n";
        assert_eq!(heard, format!("{words}*2\r\n$6\r\nSELECT\r\n$1\r\n7\r\n"));
        let master = hello.replace("$7\r\nreplica", "$6\r\nmaster");
        let (told, heard) = greeted(&[&master], None, 0).await;
        assert!(!told.expect("greeted").is_replica);
        assert_eq!(heard, "*2\r\n$5\r\nHELLO\r\n$1\r\n3\r\n");
        let (told, _) = greeted(&["-WRONGPASS no\r\n"], None, 3).await;
        assert_eq!(*told.expect_err("refused").kind(), ErrorKind::Auth);
    }
}
