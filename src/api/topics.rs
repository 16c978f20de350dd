//! `/v1/topics`: which topics this node has, how many connections are in one, and subscribing
//! users and connections from outside.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;
use tokio::time::Instant;
use warp::Filter;
use warp::http::{Method, StatusCode};
use warp::reply::Response;

use crate::api::filters::{name, parameters, query, with_key};
use crate::api::openapi::documented;
use crate::app::App;
use crate::backplane::rows::MemberCount;
use crate::edge::error::{HttpError, Routes, json};
use crate::protocol::ids::{ConnectionId, NodeId, Topic, UserId};
use crate::protocol::info::{Info, Infos};
use crate::protocol::{DEFAULT_TIMEOUT, MAX_MEMBERS, NodeMembers, Question, Status};

/// Topics in one page, unless `limit` is less.
const PAGE: usize = 1_000;

pub(super) fn routes(app: &Arc<App>) -> Routes {
    let list = warp::path!("v1" / "topics")
        .and(documented("/v1/topics"))
        .and(with_key(app))
        .and(query())
        .then(async |_method, app: Arc<App>, query: String| {
            list_here(&app, &query).unwrap_or_else(HttpError::reply)
        });
    let show = warp::path!("v1" / "topics" / String)
        .and(documented("/v1/topics/{topic}"))
        .and(with_key(app))
        .and(query())
        .then(
            async |topic: String, _method, app: Arc<App>, query: String| {
                show(&app, &topic, &query)
                    .await
                    .unwrap_or_else(HttpError::reply)
            },
        );
    let user = warp::path!("v1" / "topics" / String / "users" / String)
        .and(documented("/v1/topics/{topic}/users/{user}"))
        .and(with_key(app))
        .then(
            async |topic: String, user: String, method: Method, app: Arc<App>| {
                let reply = enroll_user(&app, &topic, &user, method == Method::PUT).await;
                reply.unwrap_or_else(HttpError::reply)
            },
        );
    let connection = warp::path!("v1" / "topics" / String / "connections" / String / String)
        .and(documented("/v1/topics/{topic}/connections/{node}/{fd}"))
        .and(with_key(app))
        .then(
            async |topic: String, node: String, fd: String, method: Method, app: Arc<App>| {
                let id = format!("{node}/{fd}");
                let reply = enroll_connection(&app, &topic, &id, method == Method::PUT).await;
                reply.unwrap_or_else(HttpError::reply)
            },
        );
    let routes = list.or(show).unify().or(user).unify();
    routes.or(connection).unify().boxed()
}

fn list_here(app: &App, query: &str) -> Result<Response, HttpError> {
    #[derive(Serialize)]
    struct TopicCount {
        topic: Topic,
        connections: u32,
    }
    #[derive(Serialize)]
    struct Body<'a> {
        node: &'a NodeId,
        topics: Vec<TopicCount>,
        #[serde(skip_serializing_if = "Option::is_none")]
        next: Option<Topic>,
    }
    let (mut limit, mut after) = (PAGE, None);
    for (field, value) in parameters(query, &["limit", "after"])? {
        match &*field {
            "limit" => {
                let number = value
                    .parse()
                    .ok()
                    .filter(|limit| (1..=PAGE).contains(limit));
                let words = format!("limit must be a whole number from 1 to {PAGE}");
                limit = number.ok_or_else(|| HttpError::bad_request(words))?;
            }
            "after" => after = Some(name::<Topic>(&value)?),
            _ => {}
        }
    }
    let here = app.hub.topics();
    let mut topics = here.all();
    topics.retain(|topic| after.as_ref().is_none_or(|after| topic > after));
    topics.sort_unstable();
    let next = topics.get(limit).and(topics.get(limit - 1)).cloned();
    topics.truncate(limit);
    let topics = topics.into_iter().map(|topic| TopicCount {
        connections: here.count(&topic),
        topic,
    });
    let body = Body {
        node: app.hub.node(),
        topics: topics.collect(),
        next,
    };
    Ok(json(StatusCode::OK, &body))
}

async fn show(app: &App, topic: &str, query: &str) -> Result<Response, HttpError> {
    #[derive(Serialize)]
    struct Body {
        topic: Topic,
        connections: u32,
        nodes: Vec<MemberCount>,
        #[serde(flatten)]
        members: Option<MemberList>,
    }
    let topic: Topic = name(topic)?;
    let mut wants_members = false;
    for (field, value) in parameters(query, &["members"])? {
        if field == "members" {
            let words = "members must be true or false";
            wants_members = value.parse().map_err(|_| HttpError::bad_request(words))?;
        }
    }
    let nodes = app.backplane.members(std::slice::from_ref(&topic)).await?;
    let nodes: Vec<MemberCount> = nodes.into_iter().flatten().collect();
    let members = match wants_members {
        true => Some(MemberList::ask(app, &topic, &nodes).await),
        false => None,
    };
    let body = Body {
        connections: nodes.iter().map(|node| node.connections).sum(),
        topic,
        nodes,
        members,
    };
    Ok(json(StatusCode::OK, &body))
}

/// The users in a topic, by the answers of its nodes.
#[derive(Serialize)]
struct MemberList {
    members: Vec<TopicMember>,
    /// There are more.
    truncated: bool,
    /// Nodes that did not answer.
    missing: Vec<NodeId>,
}

#[derive(Serialize)]
struct TopicMember {
    user: UserId,
    connections: u32,
    nodes: Vec<NodeId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    info: Option<Info>,
}

impl MemberList {
    async fn ask(app: &App, topic: &Topic, nodes: &[MemberCount]) -> Self {
        let nodes: Vec<NodeId> = nodes.iter().map(|one| one.node.clone()).collect();
        let question = Question::Members(topic.clone());
        let deadline = Instant::now() + DEFAULT_TIMEOUT;
        let mut collected = app.survey.ask(&nodes, &question, deadline).await;
        // By node, so that each request shows the same of a user who is on several.
        collected.answers.sort_unstable();
        let mut users: BTreeMap<UserId, (u32, Vec<NodeId>)> = BTreeMap::new();
        let mut infos = Infos::new();
        let mut truncated = false;
        for (node, body) in collected.answers {
            let Some(answer) = NodeMembers::parse(&body) else {
                collected.missing.push(node);
                continue;
            };
            truncated |= answer.truncated;
            for (user, info) in answer.info {
                infos.entry(user).or_insert(info);
            }
            for (user, connections) in answer.users {
                let entry = users.entry(user).or_default();
                entry.0 += connections;
                entry.1.push(node.clone());
            }
        }
        truncated |= users.len() > MAX_MEMBERS;
        let users = users.into_iter().take(MAX_MEMBERS);
        let members = users.map(|(user, (connections, nodes))| TopicMember {
            info: infos.remove(&user),
            user,
            connections,
            nodes,
        });
        Self {
            members: members.collect(),
            truncated,
            missing: collected.missing,
        }
    }
}

async fn enroll_user(
    app: &App,
    topic: &str,
    user: &str,
    joins: bool,
) -> Result<Response, HttpError> {
    let (topic, user): (Topic, UserId) = (name(topic)?, name(user)?);
    let answer = app.router.enroll_user(&user, &topic, joins).await;
    if answer.status == Status::Unrouted {
        let reason = answer.reason.unwrap_or("no way to the user's node");
        return Err(HttpError::unavailable(reason));
    }
    Ok(json(StatusCode::OK, &answer))
}

async fn enroll_connection(
    app: &App,
    topic: &str,
    id: &str,
    joins: bool,
) -> Result<Response, HttpError> {
    let (topic, id): (Topic, ConnectionId) = (name(topic)?, name(id)?);
    let answer = app.router.enroll_connection(&id, &topic, joins).await;
    match answer.status {
        Status::Offline => Err(HttpError::not_found("no such connection")),
        Status::Unrouted => Err(HttpError::unavailable(
            answer.reason.unwrap_or("no way to its node"),
        )),
        _ => Ok(json(StatusCode::OK, &answer)),
    }
}
