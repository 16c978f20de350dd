//! `/v1/topics/{topic}/messages` and `/v1/users/{user}/messages`: the kept messages of a topic or
//! a user, read (GET) and erased (DELETE), all of them or one.

use std::str::FromStr;
use std::sync::Arc;

use percent_encoding::percent_decode_str;
use serde::Serialize;
use warp::Filter;
use warp::http::{Method, StatusCode};
use warp::reply::Response;

use crate::api::filters::{name, parameters, query, with_key};
use crate::api::openapi::documented;
use crate::app::App;
use crate::backplane::history::Erasure;
use crate::edge::error::{HttpError, Routes, json};
use crate::local::replay::excerpt::{Excerpt, Span};
use crate::protocol::PastMessage;
use crate::protocol::ids::{BadName, Subject, Topic, UserId};
use crate::protocol::position::{DEFAULT_READ, count_of, entry_of};

/// Whose messages these are, as the answer says.
#[derive(Serialize)]
#[serde(rename_all = "lowercase")]
enum Owner {
    Topic(Topic),
    User(UserId),
}

impl Owner {
    fn subject(&self) -> Subject {
        match self {
            Self::Topic(topic) => Subject::Topic(topic.clone()),
            Self::User(user) => Subject::User(user.clone()),
        }
    }
}

pub(super) fn routes(app: &Arc<App>) -> Routes {
    let topics = warp::path!("v1" / "topics" / String / "messages")
        .and(documented("/v1/topics/{topic}/messages"))
        .and(with_key(app))
        .and(query())
        .then(
            async |topic: String, method, app: Arc<App>, query: String| {
                let owner = owner(&topic, Owner::Topic);
                answer_all(&app, owner, &method, &query).await
            },
        );
    let topic = warp::path!("v1" / "topics" / String / "messages" / String)
        .and(documented("/v1/topics/{topic}/messages/{entry}"))
        .and(with_key(app))
        .then(async |topic: String, entry: String, _, app: Arc<App>| {
            erase_one(&app, owner(&topic, Owner::Topic), &entry).await
        });
    let users = warp::path!("v1" / "users" / String / "messages")
        .and(documented("/v1/users/{user}/messages"))
        .and(with_key(app))
        .and(query())
        .then(async |user: String, method, app: Arc<App>, query: String| {
            let owner = owner(&user, Owner::User);
            answer_all(&app, owner, &method, &query).await
        });
    let user = warp::path!("v1" / "users" / String / "messages" / String)
        .and(documented("/v1/users/{user}/messages/{entry}"))
        .and(with_key(app))
        .then(async |user: String, entry: String, _, app: Arc<App>| {
            erase_one(&app, owner(&user, Owner::User), &entry).await
        });
    let routes = topics.or(topic).unify().or(users).unify();
    routes.or(user).unify().boxed()
}

fn owner<T: FromStr<Err = BadName>>(text: &str, kind: fn(T) -> Owner) -> Result<Owner, HttpError> {
    name(text).map(kind)
}

async fn answer_all(
    app: &App,
    owner: Result<Owner, HttpError>,
    method: &Method,
    query: &str,
) -> Response {
    let reply = match owner {
        Err(error) => Err(error),
        Ok(owner) if *method == Method::DELETE => erase(app, owner, Erasure::All).await,
        Ok(owner) => read(app, owner, query).await,
    };
    reply.unwrap_or_else(HttpError::reply)
}

async fn read(app: &App, owner: Owner, query: &str) -> Result<Response, HttpError> {
    #[derive(Serialize)]
    struct Body {
        #[serde(flatten)]
        owner: Owner,
        messages: Vec<PastMessage>,
        more: bool,
    }
    let (span, limit) = wanted(query)?;
    let subject = owner.subject();
    let Excerpt { messages, more } = app.backplane.look_back(&subject, span, limit).await?;
    let body = Body {
        owner,
        messages,
        more,
    };
    Ok(json(StatusCode::OK, &body))
}

/// Which messages a sender wants to read, and how many.
fn wanted(query: &str) -> Result<(Span, u16), HttpError> {
    let bad = |field: &str, error: &dyn std::fmt::Display| {
        HttpError::bad_request(format!("{field} {error}"))
    };
    let (mut spans, mut limit) = (Vec::new(), None);
    for (field, value) in parameters(query, &["last", "before", "after", "limit"])? {
        let entry = || entry_of(&value).map_err(|error| bad(&field, &error));
        let count = || count_of(&value).map_err(|error| bad(&field, &error));
        match &*field {
            "last" => spans.push((Span::Newest, Some(count()?))),
            "before" => spans.push((Span::Before(entry()?), None)),
            "after" => spans.push((Span::After(entry()?), None)),
            "limit" => limit = Some(count()?),
            _ => {}
        }
    }
    match (&spans[..], limit) {
        ([], limit) => Ok((Span::Newest, limit.unwrap_or(DEFAULT_READ))),
        ([(span, Some(last))], None) => Ok((*span, *last)),
        ([(span, None)], limit) => Ok((*span, limit.unwrap_or(DEFAULT_READ))),
        ([(_, Some(_))], Some(_)) => Err(HttpError::bad_request(
            "last says how many: limit goes with before or after",
        )),
        _ => Err(HttpError::bad_request(
            "one of last, before and after says what to read",
        )),
    }
}

async fn erase_one(app: &App, owner: Result<Owner, HttpError>, entry: &str) -> Response {
    let reply = async {
        let entry = percent_decode_str(entry).decode_utf8_lossy();
        let entry = entry_of(&entry)
            .map_err(|error| HttpError::bad_request(format!("the last part of the path {error}")));
        erase(app, owner?, Erasure::One(entry?)).await
    };
    reply.await.unwrap_or_else(HttpError::reply)
}

async fn erase(app: &App, owner: Owner, erasure: Erasure) -> Result<Response, HttpError> {
    #[derive(Serialize)]
    struct Body {
        #[serde(flatten)]
        owner: Owner,
        erased: u64,
    }
    let subject = owner.subject();
    let erased = app.backplane.erase(&subject, erasure).await?;
    if erased > 0 {
        tracing::info!(?subject, erased, "kept messages erased");
    }
    Ok(json(StatusCode::OK, &Body { owner, erased }))
}
