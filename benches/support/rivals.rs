//! What pushnode is compared with: the least code that does the same work, each in a process of its own.
//!
//! - `floor <sockets> <threads>`: accepts that many connections, then sends each frame from its standard input to
//!   all, each thread to its part of them.
//! - `bare <sockets> <redis> <channel>`: accepts that many connections, subscribes, and sends each message to the
//!   socket whose number it names. No handshake, no map of users, no pings.
//! - `relay <connections> <redis> <channel>`: accepts that many connections and publishes the data of each HTTP request
//!   that comes over them, a thread and a connection to Redis for each. No keys, no look-up, no checks.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc;

use super::message;
use super::redis::{Redis, Reply};
use super::websocket;

/// Bytes of one frame on the standard input of `floor`.
pub const FLOOR_FRAME: usize = 132;
/// What `bare` calls the user of socket `n` is this and the number.
pub const USER: &str = "u";

/// Runs a role until its input ends, then ends the process.
pub fn run(role: &[String]) -> ! {
    let words: Vec<&str> = role.iter().map(String::as_str).collect();
    let result = match words[..] {
        ["floor", sockets, threads] => floor(
            sockets.parse().expect("a number"),
            threads.parse().expect("a number"),
        ),
        ["bare", sockets, redis, channel] => bare(
            sockets.parse().expect("a number"),
            redis.parse().expect("an address"),
            channel,
        ),
        ["relay", connections, redis, channel] => relay(
            connections.parse().expect("a number"),
            redis.parse().expect("an address"),
            channel,
        ),
        _ => Err(io::Error::other(format!("no such role: {words:?}"))),
    };
    if let Err(error) = &result {
        eprintln!("{}: {error}", words.join(" "));
    }
    std::process::exit(i32::from(result.is_err()))
}

fn floor(count: usize, threads: usize) -> io::Result<()> {
    let mut sockets = accept(count)?;
    let mut others = Vec::new();
    for _ in 1..threads {
        let part = sockets.split_off(sockets.len() - count / threads);
        let (frames, inbox) = mpsc::channel::<[u8; FLOOR_FRAME]>();
        std::thread::spawn(move || inbox.iter().for_each(|frame| send_all(&part, &frame)));
        others.push(frames);
    }
    let mut frame = [0; FLOOR_FRAME];
    let mut input = io::stdin().lock();
    while input.read_exact(&mut frame).is_ok() {
        for other in &others {
            other.send(frame).map_err(io::Error::other)?;
        }
        send_all(&sockets, &frame);
    }
    Ok(())
}

fn send_all(sockets: &[TcpStream], frame: &[u8]) {
    for mut socket in sockets {
        // A full socket would lose the frame; the client counts it as missing.
        let _ = socket.write(frame);
    }
}

fn bare(count: usize, redis: SocketAddr, channel: &str) -> io::Result<()> {
    let mut sockets = accept(count)?;
    let mut redis = Redis::connect(redis)?;
    redis.command(&[b"SUBSCRIBE", channel.as_bytes()])?;
    loop {
        let Reply::List(parts) = redis.reply()? else {
            continue;
        };
        let [.., Reply::Bytes(data)] = &parts[..] else {
            continue;
        };
        let number = message::parse(data).and_then(|(user, _)| {
            std::str::from_utf8(user)
                .ok()?
                .strip_prefix(USER)?
                .parse()
                .ok()
        });
        if let Some(socket) = number.and_then(|number: usize| sockets.get_mut(number)) {
            let _ = socket.write(&websocket::text_frame(data));
        }
    }
}

fn relay(count: usize, redis: SocketAddr, channel: &str) -> io::Result<()> {
    let sockets = accept(count)?;
    std::thread::scope(|scope| {
        let threads: Vec<_> = sockets
            .into_iter()
            .map(|socket| scope.spawn(move || relay_all(socket, redis, channel)))
            .collect();
        let mut results = threads
            .into_iter()
            .map(|thread| thread.join().expect("no panic"));
        results.find(io::Result::is_err).unwrap_or(Ok(()))
    })
}

/// Every request is a push with a `Content-Length`, whose data stands last, and comes in one piece.
fn relay_all(mut socket: TcpStream, redis: SocketAddr, channel: &str) -> io::Result<()> {
    socket.set_nonblocking(false)?;
    let mut redis = Redis::connect(redis)?;
    let mut request = [0; 4096];
    loop {
        let length = socket.read(&mut request)?;
        if length == 0 {
            return Ok(());
        }
        let text = std::str::from_utf8(&request[..length]).map_err(io::Error::other)?;
        let data = text
            .split_once(r#""data":"#)
            .and_then(|(_, rest)| rest.strip_suffix('}'));
        let data = data.ok_or_else(|| io::Error::other(format!("not a push: {text}")))?;
        redis.command(&[b"PUBLISH", channel.as_bytes(), data.as_bytes()])?;
        socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")?;
    }
}

/// Says where it listens, then takes `count` connections, in order.
fn accept(count: usize) -> io::Result<Vec<TcpStream>> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    println!("{}", listener.local_addr()?);
    (0..count)
        .map(|_| {
            let (socket, _) = listener.accept()?;
            socket.set_nodelay(true)?;
            socket.set_nonblocking(true)?;
            Ok(socket)
        })
        .collect()
}
