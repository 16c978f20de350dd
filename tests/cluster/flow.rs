//! A stream of numbered pushes through two nodes, and what its receiver says of it.
//!
//! One push after the other, each by HTTP with `wait: written`. Each that was answered `written`
//! must have arrived, once, in order; of the others nothing may be known, but they may not come
//! twice either.

use std::time::{Duration, Instant};

use futures::StreamExt;
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::Message;

use crate::common::{Client, Node, eventually, post};

/// What was heard: a number, and when.
type Heard = (u64, Instant);

pub(crate) struct Flow {
    sender: JoinHandle<Vec<(u64, Instant, String)>>,
    heard: mpsc::UnboundedReceiver<Heard>,
    stop: watch::Sender<bool>,
    all: Vec<Heard>,
}

impl Flow {
    /// `user` is on `there`; pushes go to `here`.
    pub(crate) async fn start(here: &Node, there: &Node, user: &str) -> Self {
        let mut client = Client::v1(&there.ws_url(user)).await;
        let (note, heard) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Some(Ok(message)) = client.socket.next().await {
                let Message::Text(text) = message else {
                    continue;
                };
                let value: Value = serde_json::from_str(&text).expect("JSON");
                if let Some(number) = value["data"]["n"].as_u64() {
                    let _ = note.send((number, Instant::now()));
                }
            }
        });
        let (stop, mut stopped) = watch::channel(false);
        let (url, user) = (here.push_url.clone(), user.to_owned());
        let sender = tokio::spawn(async move {
            let mut sent = Vec::new();
            let mut pace = tokio::time::interval(Duration::from_millis(20));
            for n in 1.. {
                tokio::select! {
                    _ = pace.tick() => {}
                    _ = stopped.changed() => break,
                }
                let at = Instant::now();
                let push = json!({"to": {"user": user}, "id": format!("{user}-{n}"), "data": {"n": n}, "wait": "written", "timeout_ms": 5000});
                let (_, answer) = post(&url, &push).await;
                let status = answer["status"].as_str().unwrap_or("error");
                sent.push((n, at, status.to_owned()));
            }
            sent
        });
        let mut flow = Self {
            sender,
            heard,
            stop,
            all: Vec::new(),
        };
        flow.heard_after(Instant::now()).await;
        flow
    }

    /// Waits until something is heard after this; answers how long after it that was.
    pub(crate) async fn heard_after(&mut self, fault: Instant) -> Duration {
        loop {
            let next = tokio::time::timeout(crate::common::PATIENCE, self.heard.recv()).await;
            let (number, at) = next.expect("a message in time").expect("a client");
            self.all.push((number, at));
            if at > fault {
                return at - fault;
            }
        }
    }

    /// Ends it and looks whether what was answered is true. Answers how many pushes there were,
    /// and how many were not answered `written`.
    pub(crate) async fn audit(mut self) -> (usize, usize) {
        self.heard_after(Instant::now()).await;
        self.stop.send_replace(true);
        let sent = self.sender.await.expect("a sender");
        let written = |(_, _, status): &&(u64, Instant, String)| status == "written";
        let last = sent.iter().rev().find(written).map_or(0, |(n, ..)| *n);
        while self.all.last().is_none_or(|(n, _)| *n < last) {
            let next = tokio::time::timeout(crate::common::PATIENCE, self.heard.recv()).await;
            self.all
                .push(next.expect("the last one in time").expect("a client"));
        }
        let numbers: Vec<u64> = self.all.iter().map(|(n, _)| *n).collect();
        assert!(
            numbers.is_sorted_by(|a, b| a < b),
            "out of order or twice: {numbers:?}"
        );
        for (n, _, status) in sent.iter().filter(written) {
            assert!(
                numbers.binary_search(n).is_ok(),
                "{n} was answered {status} and never came"
            );
        }
        let others: Vec<_> = sent.iter().filter(|one| !written(one)).collect();
        for (n, _, status) in &others {
            println!("push {n} was answered {status}");
        }
        (sent.len(), others.len())
    }
}

/// Waits until a push is taken and written again.
pub(crate) async fn until_written(here: &Node, user: &str, data: &Value) {
    eventually(async || {
        let push =
            json!({"to": {"user": user}, "data": data, "wait": "written", "timeout_ms": 2000});
        match post(&here.push_url, &push).await {
            (200, answer) if answer["status"] == "written" => Ok(()),
            (_, answer) => Err(answer),
        }
    })
    .await;
}
