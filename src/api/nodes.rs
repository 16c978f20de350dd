//! `GET /v1/nodes`: the nodes of the cluster. `POST /v1/nodes/{name}/drain`: having one leave.

use std::sync::Arc;

use serde::Serialize;
use warp::Filter;
use warp::http::StatusCode;

use crate::api::filters::with_key;
use crate::api::openapi::documented;
use crate::app::App;
use crate::backplane::nodes::NodeRecord;
use crate::edge::error::{HttpError, Routes, json};

pub(super) fn routes(app: &Arc<App>) -> Routes {
    let list = warp::path!("v1" / "nodes")
        .and(documented("/v1/nodes"))
        .and(with_key(app))
        .then(async |_method, app: Arc<App>| {
            #[derive(Serialize)]
            struct Body<'a> {
                nodes: &'a [NodeRecord],
            }
            json(
                StatusCode::OK,
                &Body {
                    nodes: &app.backplane.nodes(),
                },
            )
        });
    let drain = warp::path!("v1" / "nodes" / String / "drain")
        .and(documented("/v1/nodes/{name}/drain"))
        .and(with_key(app))
        .then(async |name: String, _method, app: Arc<App>| {
            let nodes = app.backplane.nodes();
            let Some(record) = nodes.iter().find(|record| record.name == name) else {
                return HttpError::not_found("no live node of this name").reply();
            };
            #[derive(Serialize)]
            struct Body<'a> {
                node: &'a str,
                status: &'static str,
            }
            match app.router.drain(&record.node).await {
                Ok(true) => {
                    let body = Body {
                        node: record.node.as_str(),
                        status: "draining",
                    };
                    json(StatusCode::ACCEPTED, &body)
                }
                Ok(false) => HttpError::unavailable("the node does not listen").reply(),
                Err(reason) => HttpError::from(reason).reply(),
            }
        });
    list.or(drain).unify().boxed()
}
