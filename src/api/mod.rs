//! HTTP: the routes of clients, senders and operators. One file per noun.
//!
//! Which methods a path takes stands in `openapi.json` only, where `documented` looks. Replies to
//! errors are made in `edge::error` and nowhere else.

mod openapi;

mod filters;

mod body;

mod gauges;

mod page;

mod script;

mod node_choice;

mod push;

mod presence;

mod users;

mod bans;

mod sessions;

mod trace;

mod connections;

mod nodes;

mod commands;

mod call;

mod topics;

mod messages;

mod reply;

mod operations;

use std::pin::Pin;
use std::sync::Arc;

use warp::Filter;
use warp::reply::Response;

use crate::api::filters::{counted, finish, query, with};
use crate::api::openapi::documented;
use crate::app::App;
use crate::edge::error::Routes;
use crate::edge::upgrade::{RequestContext, UpgradeRequest};
use crate::edge::{sse, ws};

/// Where clients connect; senders too, unless they have listeners of their own.
pub(crate) fn client_routes(app: &Arc<App>) -> Routes {
    let clients = websocket(app, "ws", |app, request| {
        Box::pin(ws::connect(app, request))
    });
    #[cfg(feature = "echo")]
    let clients = clients
        .or(websocket(app, "echo", |app, request| {
            Box::pin(ws::echo(app, request))
        }))
        .unify()
        .boxed();
    let clients = clients.or(events(app)).unify().boxed();
    let clients = clients.or(page::route()).unify().boxed();
    let clients = clients.or(script::route()).unify().boxed();
    let clients = clients.or(node_choice::route(app)).unify().boxed();
    if app.config.api_listen.is_empty() {
        // Routes are tried one after the other: push comes first, because it is called most.
        let push = counted(app, push::route(app));
        let others = counted(app, other_senders(app));
        finish(push.or(clients).unify().or(others).unify().boxed())
    } else {
        finish(clients.or(openapi::route()).unify().boxed())
    }
}

/// Where senders call.
pub(crate) fn sender_routes(app: &Arc<App>) -> Routes {
    let push = counted(app, push::route(app));
    let others = counted(app, other_senders(app));
    finish(push.or(others).unify().boxed())
}

/// Where operators look.
pub(crate) fn admin_routes(app: &Arc<App>) -> Routes {
    finish(operations::routes(app))
}

/// All routes that senders call, except push.
fn other_senders(app: &Arc<App>) -> Routes {
    users::route(app)
        .or(bans::route(app))
        .unify()
        .or(sessions::route(app))
        .unify()
        .or(trace::route(app))
        .unify()
        .or(connections::route(app))
        .unify()
        .or(nodes::routes(app))
        .unify()
        .or(commands::routes(app))
        .unify()
        .or(call::route(app))
        .unify()
        .or(topics::routes(app))
        .unify()
        .or(messages::routes(app))
        .unify()
        .or(reply::route(app))
        .unify()
        .or(presence::route(app))
        .unify()
        .or(openapi::route())
        .unify()
        .boxed()
}

type Connecting = Pin<Box<dyn Future<Output = Response> + Send>>;

fn websocket(
    app: &Arc<App>,
    path: &'static str,
    connect: fn(Arc<App>, UpgradeRequest) -> Connecting,
) -> Routes {
    warp::path(path)
        .and(warp::path::end())
        .and(with(app))
        .and(warp::method())
        .and(warp::header::headers_cloned())
        .and(query())
        .and(warp::ext::get::<RequestContext>())
        .then(move |app, method, headers, query, context| {
            let request = UpgradeRequest {
                method,
                headers,
                query,
                context,
            };
            connect(app, request)
        })
        .boxed()
}

fn events(app: &Arc<App>) -> Routes {
    warp::path!("sse")
        .and(documented("/sse"))
        .and(with(app))
        .and(warp::header::headers_cloned())
        .and(query())
        .and(warp::ext::get::<RequestContext>())
        .then(|method, app, headers, query, context| {
            let request = UpgradeRequest {
                method,
                headers,
                query,
                context,
            };
            sse::connect(app, request)
        })
        .boxed()
}
