//! A client that cannot take some kept messages: it drops the connection at each of them, as
//! libraries with a limit do, and comes back.

use std::time::{Duration, Instant};

use fastrand::Rng;
use serde_json::Value;

use crate::history::Event;
use crate::publishers::Draft;
use crate::stage::Stage;
use crate::views::View;
use crate::wires::{Heard, Socket, Wire, Wish};

/// What the client reads at most. Some libraries have this limit.
const LIMIT: usize = 64 * 1024;
/// After so many connects of a device that ended at a message, its node passes the message over.
const MOST: u64 = 3;
/// Connects that the node does not count, because the client is back before it has noticed its end.
const UNSEEN: u64 = 4;
/// How long the client tries, and then another device.
const PATIENCE: Duration = Duration::from_secs(40);
/// Longest wait for a handshake, and for the next object.
const WAIT: Duration = Duration::from_secs(4);
/// Between two connects of a client, in milliseconds.
const PAUSE: std::ops::Range<u64> = 150..500;
/// How often a push is sent until it is kept.
const ATTEMPTS: u32 = 10;

/// A device of a user that comes back and back to the user's inbox.
struct Reader<'a> {
    wish: Wish<'a>,
    wire: Wire,
    /// The most that it reads at once.
    limit: usize,
    /// Whether it says why it goes, where it can.
    is_polite: bool,
    position: String,
    connects: u64,
    got: Vec<String>,
    passed: Vec<String>,
    is_claimed: bool,
}

impl Reader<'_> {
    /// Connects once and reads until it has all of these, comes to a message that is too large, or
    /// hears nothing more.
    async fn read(&mut self, view: &View, all: usize) -> Option<()> {
        let wish = Wish {
            since: Some(&self.position),
            topics: Vec::new(),
            ..self.wish
        };
        let (mut socket, ready) = connect(self.wire, view, &wish).await?;
        self.connects += 1;
        let position = ready["resume"].as_str()?.to_owned();
        self.position = position;
        while self.got.len() + self.passed.len() < all {
            let heard = tokio::time::timeout(WAIT, socket.next()).await;
            let Ok(Heard::Text(text)) = heard else { break };
            if text.len() > self.limit {
                socket.refuse(self.is_polite).await;
                break;
            }
            let object: Value = serde_json::from_str(&text).ok()?;
            let id = object["id"].as_str().or(object["data"]["id"].as_str());
            let Some(id) = id.map(str::to_owned) else {
                continue;
            };
            match object["type"].as_str() {
                Some("message") => self.got.push(id),
                Some("resync") => {
                    self.is_claimed |= ready["recovered"] != false;
                    self.passed.push(id);
                }
                _ => continue,
            }
            // An event stream is behind what was passed over from `ready` on.
            if let Some(position) = object["resume"]
                .as_str()
                .filter(|_| self.wire != Wire::Sse || object["type"] == "message")
            {
                position.clone_into(&mut self.position);
            }
        }
        Some(())
    }
}

async fn connect(wire: Wire, view: &View, wish: &Wish<'_>) -> Option<(Socket, Value)> {
    let connect = async {
        let mut socket = Socket::connect(wire, view, wish, &mut false).await?;
        let Heard::Text(text) = socket.next().await else {
            return None;
        };
        let ready: Value = serde_json::from_str(&text).ok()?;
        // Without a position, the node could not ask Redis.
        let is_well = ready["type"] == "ready" && ready["resume"].is_string();
        is_well.then_some((socket, ready))
    };
    tokio::time::timeout(WAIT, connect).await.ok().flatten()
}

impl Stage {
    /// Keeps some messages for a user, some of them over the limit of its phone. The phone comes to
    /// one node after another until it has the others; then another device reads them all.
    pub(crate) async fn stumble(&self, draw: u64) -> Option<()> {
        let mut rng = Rng::with_seed(draw);
        let user = format!("s{draw:x}");
        let wire = *rng.choice(&[Wire::V1, Wire::Tcp, Wire::Sse])?;
        let is_polite = rng.bool();
        let wish = |device| Wish {
            user: &user,
            device,
            ..Wish::default()
        };
        let position = self.first_position(&mut rng, wire, &wish("phone")).await?;
        let (kept, large) = self.keep_some(&mut rng, &user).await?;
        let reader = |device, limit| Reader {
            wish: wish(device),
            wire,
            limit,
            is_polite,
            position: position.clone(),
            connects: 0,
            got: Vec::new(),
            passed: Vec::new(),
            is_claimed: false,
        };
        let mut phone = reader("phone", LIMIT);
        self.let_read(&mut rng, &mut phone, kept.len()).await;
        let mut other = reader("desk", usize::MAX);
        self.let_read(&mut rng, &mut other, kept.len()).await;
        let each = self.places.len() as u64 * MOST + 1;
        self.recorder.write(Event::Stumbled {
            allowed: large.len() as u64 * each + UNSEEN,
            user: user.clone(),
            kept,
            large,
            got: phone.got,
            passed: phone.passed,
            is_claimed: phone.is_claimed,
            other: other.got,
            connects: phone.connects,
            at: self.recorder.now(),
        });
        Some(())
    }

    async fn first_position(&self, rng: &mut Rng, wire: Wire, wish: &Wish<'_>) -> Option<String> {
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            let view = self.views.any(rng)?;
            if let Some((_, ready)) = connect(wire, &view, wish).await {
                return Some(ready["resume"].as_str()?.to_owned());
            }
            tokio::time::sleep(Duration::from_millis(rng.u64(PAUSE))).await;
        }
        None
    }

    /// Answers what was kept, and what of it is large. The last one is not.
    async fn keep_some(&self, rng: &mut Rng, user: &str) -> Option<(Vec<String>, Vec<String>)> {
        let (mut kept, mut large) = (Vec::new(), Vec::new());
        let count = rng.u64(2..=5);
        for seq in 1..=count {
            let id = format!("{user}-{seq}");
            let is_large = seq < count && (seq == 1 || rng.u8(..3) == 0);
            let padding = if is_large {
                rng.usize(LIMIT..2 * LIMIT)
            } else {
                rng.usize(..300)
            };
            let draft = Draft {
                id: id.clone(),
                seq,
                to: vec![user.to_owned()],
                padding,
                anonymous: false,
                kept: true,
                kept_by_rule: false,
            };
            let mut attempt = 1;
            loop {
                let told = self.push_once(&self.views.any(rng)?, &draft, attempt).await;
                if matches!(&*told, "stored" | "routed" | "duplicate") {
                    break;
                }
                attempt += 1;
                if attempt > ATTEMPTS {
                    return None;
                }
                tokio::time::sleep(Duration::from_millis(rng.u64(PAUSE))).await;
            }
            if is_large {
                large.push(id.clone());
            }
            kept.push(id);
        }
        Some((kept, large))
    }

    async fn let_read(&self, rng: &mut Rng, reader: &mut Reader<'_>, all: usize) {
        let start = Instant::now();
        while reader.got.len() + reader.passed.len() < all && start.elapsed() < PATIENCE {
            if let Some(view) = self.views.any(rng) {
                let _ = reader.read(&view, all).await;
            }
            tokio::time::sleep(Duration::from_millis(rng.u64(PAUSE))).await;
        }
    }
}
