//! `POST /v1/presence`: which of many users are online, where and since when; how many connections
//! are in topics.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::Serialize;
use warp::Filter;
use warp::http::StatusCode;
use warp::reply::Response;

use crate::api::body;
use crate::api::openapi::documented;
use crate::app::App;
use crate::backplane::rows::{MemberCount, Row};
use crate::edge::error::{HttpError, Routes, json};
use crate::protocol::PresenceRequest;
use crate::protocol::ids::{NodeId, Topic, UserId};

pub(super) fn route(app: &Arc<App>) -> Routes {
    let path = warp::path!("v1" / "presence").and(documented("/v1/presence"));
    body::posted(app, path, PresenceRequest::parse, async |app, request| {
        let answer = match request {
            PresenceRequest::Users(users) => of_users(&app, users).await,
            PresenceRequest::Topics(topics) => of_topics(&app, topics).await,
        };
        answer.unwrap_or_else(HttpError::reply)
    })
}

async fn of_users(app: &App, users: Vec<UserId>) -> Result<Response, HttpError> {
    #[derive(Serialize)]
    struct UserPresence {
        user: UserId,
        online: bool,
        connections: usize,
        #[serde(flatten)]
        extent: Extent,
        nodes: BTreeSet<NodeId>,
    }
    #[derive(Serialize)]
    struct Body {
        users: Vec<UserPresence>,
    }
    let rows = app.backplane.rows_of(&users).await?;
    let users = users
        .into_iter()
        .zip(rows)
        .map(|(user, rows)| UserPresence {
            user,
            online: !rows.is_empty(),
            connections: rows.len(),
            extent: Extent::of(&rows),
            nodes: rows.into_iter().map(|row| row.node).collect(),
        });
    let users = users.collect();
    Ok(json(StatusCode::OK, &Body { users }))
}

async fn of_topics(app: &App, topics: Vec<Topic>) -> Result<Response, HttpError> {
    #[derive(Serialize)]
    struct TopicPresence {
        topic: Topic,
        connections: u32,
        nodes: Vec<MemberCount>,
    }
    #[derive(Serialize)]
    struct Body {
        topics: Vec<TopicPresence>,
    }
    let members = app.backplane.members(&topics).await?;
    let topics = topics
        .into_iter()
        .zip(members)
        .map(|(topic, nodes)| TopicPresence {
            topic,
            connections: nodes.iter().map(|node| node.connections).sum(),
            nodes,
        });
    let topics = topics.collect();
    Ok(json(StatusCode::OK, &Body { topics }))
}

/// On how many devices a user is, and since when.
#[derive(Debug, Serialize)]
pub(super) struct Extent {
    /// Different names of devices, and each connection that named none.
    devices: usize,
    /// When the oldest connection came, in milliseconds since 1970.
    since: Option<u64>,
}

impl Extent {
    pub(super) fn of(rows: &[Row]) -> Self {
        let named: BTreeSet<&str> = rows
            .iter()
            .filter_map(|row| row.about.device.as_deref())
            .collect();
        let unnamed = rows.iter().filter(|row| row.about.device.is_none()).count();
        Self {
            devices: named.len() + unnamed,
            since: rows.iter().map(|row| row.about.at).min(),
        }
    }
}
