//! A blocking Redis client of a few lines: pipelined commands, and the stream of a subscription.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};

#[derive(Debug, PartialEq, Eq)]
pub enum Reply {
    Text(String),
    Integer(i64),
    Bytes(Vec<u8>),
    List(Vec<Reply>),
    Nothing,
}

pub struct Redis {
    reader: BufReader<TcpStream>,
    unsent: Vec<u8>,
}

impl Redis {
    pub fn connect(server: SocketAddr) -> io::Result<Redis> {
        let stream = TcpStream::connect(server)?;
        stream.set_nodelay(true)?;
        Ok(Redis {
            reader: BufReader::with_capacity(64 * 1_024, stream),
            unsent: Vec::new(),
        })
    }

    /// Adds a command to the pipeline.
    pub fn queue(&mut self, words: &[&[u8]]) {
        self.unsent
            .extend(format!("*{}\r\n", words.len()).into_bytes());
        for word in words {
            self.unsent
                .extend(format!("${}\r\n", word.len()).into_bytes());
            self.unsent.extend(*word);
            self.unsent.extend(b"\r\n");
        }
    }

    /// Sends what is queued.
    pub fn flush(&mut self) -> io::Result<()> {
        self.reader.get_mut().write_all(&self.unsent)?;
        self.unsent.clear();
        Ok(())
    }

    pub fn command(&mut self, words: &[&[u8]]) -> io::Result<Reply> {
        self.queue(words);
        self.flush()?;
        self.reply()
    }

    /// The next reply, or the next push of a subscription.
    pub fn reply(&mut self) -> io::Result<Reply> {
        let mut line = String::new();
        self.reader.read_line(&mut line)?;
        let Some(kind) = line.chars().next() else {
            return Err(io::ErrorKind::UnexpectedEof.into());
        };
        let rest = line[1..].trim_end();
        let number = || rest.parse::<i64>().map_err(io::Error::other);
        Ok(match kind {
            '+' => Reply::Text(rest.to_owned()),
            ':' => Reply::Integer(number()?),
            '-' => return Err(io::Error::other(format!("Redis: {rest}"))),
            '$' | '*' if rest.starts_with('-') => Reply::Nothing,
            '$' => {
                let length = usize::try_from(number()?).map_err(io::Error::other)?;
                let mut bytes = vec![0; length + 2];
                self.reader.read_exact(&mut bytes)?;
                bytes.truncate(length);
                Reply::Bytes(bytes)
            }
            '*' => Reply::List(
                (0..number()?)
                    .map(|_| self.reply())
                    .collect::<io::Result<_>>()?,
            ),
            _ => return Err(io::Error::other(format!("not a Redis reply: {line:?}"))),
        })
    }
}
