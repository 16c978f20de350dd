//! A Redis client that survives Redis: every call has a limit and answers what went wrong.

use std::io::{Error, ErrorKind, Result};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

/// Longest wait for one answer.
const PATIENCE: Duration = Duration::from_secs(3);

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    Text(String),
    Number(i64),
    List(Vec<Answer>),
    Nothing,
}

impl Answer {
    pub(crate) fn number(&self) -> i64 {
        match self {
            Self::Number(number) => *number,
            _ => 0,
        }
    }

    pub(crate) fn text(&self) -> &str {
        match self {
            Self::Text(text) => text,
            _ => "",
        }
    }

    pub(crate) fn list(&self) -> &[Answer] {
        match self {
            Self::List(list) => list,
            _ => &[],
        }
    }
}

/// One connection (RESP2). After an error it is of no more use.
pub(crate) struct Resp {
    stream: BufReader<TcpStream>,
}

impl Resp {
    pub(crate) async fn connect(port: u16) -> Result<Self> {
        let stream = limited(TcpStream::connect(("127.0.0.1", port))).await?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream: BufReader::new(stream),
        })
    }

    pub(crate) async fn call<A: AsRef<[u8]>>(&mut self, command: &[A]) -> Result<Answer> {
        limited(async {
            self.send(command).await?;
            self.read().await
        })
        .await
    }

    /// Sends without waiting for the answer, which the next call would get.
    pub(crate) async fn send<A: AsRef<[u8]>>(&mut self, command: &[A]) -> Result<()> {
        let mut out = format!("*{}\r\n", command.len()).into_bytes();
        for argument in command {
            let argument = argument.as_ref();
            out.extend(format!("${}\r\n", argument.len()).bytes());
            out.extend(argument);
            out.extend(b"\r\n");
        }
        self.stream.get_mut().write_all(&out).await
    }

    /// The next answer or message, however long it takes.
    pub(crate) async fn read(&mut self) -> Result<Answer> {
        let mut line = String::new();
        if self.stream.read_line(&mut line).await? == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        let line = line.trim_end();
        let (kind, rest) = line.split_at_checked(1).unwrap_or(("", ""));
        let number = || rest.parse::<i64>().map_err(Error::other);
        Ok(match kind {
            "+" => Answer::Text(rest.to_owned()),
            "-" => return Err(Error::other(rest.to_owned())),
            ":" => Answer::Number(number()?),
            "$" | "*" if number()? < 0 => Answer::Nothing,
            "$" => {
                let mut text = vec![0; number()? as usize + 2];
                self.stream.read_exact(&mut text).await?;
                text.truncate(text.len() - 2);
                Answer::Text(String::from_utf8_lossy(&text).into_owned())
            }
            "*" => {
                let mut list = Vec::new();
                for _ in 0..number()? {
                    list.push(Box::pin(self.read()).await?);
                }
                Answer::List(list)
            }
            _ => return Err(Error::other(format!("not RESP: {line:?}"))),
        })
    }
}

async fn limited<T>(future: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::time::timeout(PATIENCE, future)
        .await
        .unwrap_or_else(|_| Err(ErrorKind::TimedOut.into()))
}
