//! Real answers against `src/api/openapi.json`: whether the document says that they can come, and
//! whether they are as it says.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};
use std::sync::LazyLock;

use boon::{Compiler, Draft, SchemaIndex, Schemas};
use reqwest::Method;
use reqwest::header::{CONTENT_TYPE, HeaderMap};
use serde_json::{Value, json};

/// What only several nodes and their Redis can show: `tests/cluster/openapi.rs` provokes it.
pub const OF_CLUSTERS: [&str; 2] = ["drainNode 202", "drainNode 503 unavailable"];

pub static DOCUMENT: LazyLock<Value> = LazyLock::new(|| {
    serde_json::from_str(include_str!("../../src/api/openapi.json")).expect("JSON")
});

/// Where HEAD is not answered like GET.
const STREAMS: [&str; 2] = ["/ws", "/sse"];

/// Under which the validator knows the document.
const ADDRESS: &str = "http://node/openapi.json";

/// An answer to a request.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

impl Answer {
    pub async fn read(response: reqwest::Response) -> Self {
        let status = response.status().as_u16();
        let headers = response.headers().clone();
        let is_stream = |media| media == "text/event-stream";
        let body = match headers.get(CONTENT_TYPE).is_some_and(is_stream) {
            // It ends with the connection, which this drops.
            true => Vec::new(),
            // After 101 the rest is not HTTP.
            false => response.bytes().await.unwrap_or_default().to_vec(),
        };
        Self {
            status,
            headers,
            body,
        }
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        let value = self.headers.get(name)?;
        Some(value.to_str().expect("text"))
    }
}

/// A place in the document, as a JSON pointer whose references are followed.
#[derive(Debug, Clone)]
struct Place(String);

impl Place {
    fn at(pointer: &str) -> Option<Self> {
        match DOCUMENT.pointer(pointer)?.get("$ref") {
            Some(reference) => {
                let reference = reference.as_str().expect("a string");
                Self::at(reference.strip_prefix('#').expect("within the document"))
            }
            None => Some(Self(pointer.to_owned())),
        }
    }

    fn child(&self, name: &str) -> Option<Self> {
        let name = name.replace('~', "~0").replace('/', "~1");
        Self::at(&format!("{}/{name}", self.0))
    }

    fn value(&self) -> &'static Value {
        DOCUMENT.pointer(&self.0).expect("it was found")
    }

    fn keys(&self) -> impl Iterator<Item = &'static str> + use<> {
        let object = self.value().as_object().expect("an object");
        object.keys().map(String::as_str)
    }
}

/// An operation of the document.
#[derive(Debug, Clone)]
pub struct Operation {
    pub method: Method,
    /// With parameters in braces.
    pub path: &'static str,
    place: Place,
}

impl Operation {
    pub fn id(&self) -> &'static str {
        let id = &self.place.value()["operationId"];
        id.as_str().expect("each has an operationId")
    }

    pub fn has_tag(&self, tag: &str) -> bool {
        let tags = self.place.value()["tags"].as_array().expect("tags");
        tags.iter().any(|one| one == tag)
    }

    /// The path with its parameters' examples.
    pub fn example_path(&self) -> String {
        let parameters = Place::at("/paths").and_then(|paths| paths.child(self.path));
        let parameters = &parameters.expect("its own path").value()["parameters"];
        let mut path = self.path.to_owned();
        for parameter in parameters.as_array().into_iter().flatten() {
            let name = parameter["name"].as_str().expect("a name");
            let example = parameter["example"].to_string();
            path = path.replace(&format!("{{{name}}}"), example.trim_matches('"'));
        }
        path
    }

    /// Whether senders need a key for it.
    pub fn needs_key(&self) -> bool {
        self.place.child("security").is_some()
    }

    /// What it takes as JSON.
    fn body(&self) -> Option<Place> {
        let content = self.place.child("requestBody")?.child("content")?;
        content.child("application/json")
    }

    /// The bodies that the document shows; none if it takes no body.
    pub fn example_bodies(&self) -> Vec<&'static Value> {
        let Some(body) = self.body() else {
            return Vec::new();
        };
        let examples = body.value()["examples"].as_object();
        let examples = examples.expect("a body has examples").values();
        examples.map(|example| &example["value"]).collect()
    }

    fn responses(&self) -> Place {
        self.place.child("responses").expect("responses")
    }
}

/// All operations.
pub fn operations() -> Vec<Operation> {
    let paths = Place::at("/paths").expect("paths");
    let of_path = |path: &'static str| {
        let item = paths.child(path).expect("listed");
        let methods = item.keys().map(str::to_ascii_uppercase);
        let methods = methods.filter_map(|method| {
            let known = ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"];
            known
                .contains(&&*method)
                .then(|| method.parse().expect("a method"))
        });
        let operation = move |method: Method| Operation {
            path,
            place: item
                .child(&method.as_str().to_ascii_lowercase())
                .expect("listed"),
            method,
        };
        methods.map(operation).collect::<Vec<_>>()
    };
    paths.keys().flat_map(of_path).collect()
}

/// Everything that the document says can be answered: `<operationId> <status>`, behind it the error
/// code if there is one, or the media type if there are several.
pub fn promised() -> BTreeSet<String> {
    let of_operation = |operation: Operation| {
        let responses = operation.responses();
        let statuses = responses.keys();
        let of_status = move |status: &str| {
            let response = responses.child(status).expect("listed");
            let start = format!("{} {status}", operation.id());
            kinds(&response, &operation.method)
                .into_iter()
                .map(move |kind| {
                    let words = [start.as_str(), &kind];
                    words.join(" ").trim_end().to_owned()
                })
        };
        statuses.flat_map(of_status).collect::<Vec<_>>()
    };
    operations().into_iter().flat_map(of_operation).collect()
}

/// What tells the answers of one status apart.
fn kinds(response: &Place, method: &Method) -> Vec<String> {
    let content = response.child("content");
    let Some(content) = content.filter(|_| method != Method::HEAD) else {
        return vec![String::new()];
    };
    let schemas = content.keys().map(|media| content.child(media));
    let codes: Vec<String> = schemas
        .flatten()
        .flat_map(|media| codes(&media.value()["schema"]))
        .collect();
    match content.keys().count() {
        _ if !codes.is_empty() => codes,
        1 => vec![String::new()],
        _ => content.keys().map(str::to_owned).collect(),
    }
}

/// The error codes that a schema lists.
fn codes(schema: &Value) -> Vec<String> {
    let listed = schema.pointer("/properties/error/properties/code/enum");
    let listed = listed.and_then(Value::as_array).into_iter().flatten();
    let mut all: Vec<String> = listed
        .map(|code| code.as_str().expect("a code").to_owned())
        .collect();
    for one in schema["oneOf"].as_array().into_iter().flatten() {
        all.extend(codes(one));
    }
    if let Some(reference) = schema["$ref"].as_str() {
        let place = Place::at(&reference[1..]).expect("in the document");
        all.extend(codes(place.value()));
    }
    all
}

/// The path of the document that this one is of.
fn template(path: &str) -> Option<&'static str> {
    let fits = |template: &str| {
        let (of_template, of_path) = (template.split('/'), path.split('/'));
        of_template.clone().count() == of_path.clone().count()
            && of_template
                .zip(of_path)
                .all(|(one, other)| one == other || one.starts_with('{'))
    };
    Place::at("/paths")?.keys().find(|template| fits(template))
}

/// Without host and query.
fn path_of(url: &str) -> &str {
    let path = url
        .split_once("://")
        .map_or(url, |(_, rest)| &rest[rest.find('/').unwrap_or(0)..]);
    path.split('?').next().unwrap_or_default()
}

fn operation(method: &Method, path: &str) -> Option<Operation> {
    let path = template(path)?;
    let of = |method: &Method| {
        let fits = |one: &Operation| one.path == path && one.method == *method;
        operations().into_iter().find(fits)
    };
    let implied = || {
        let method = method.clone();
        let get = of(&Method::GET).filter(|_| method == Method::HEAD && !STREAMS.contains(&path));
        get.map(|get| Operation { method, ..get })
    };
    of(method).or_else(implied)
}

/// Reads an answer of a node; fails if it is not as the document says.
pub async fn read(method: Method, url: &str, response: reqwest::Response) -> Answer {
    let answer = Answer::read(response).await;
    if let Err(words) = judge(&method, url, &answer) {
        panic!("{words}");
    }
    answer
}

/// Whether the document allows this body of a POST.
///
/// # Errors
/// What is wrong with it.
pub fn check_body(url: &str, body: &Value) -> Result<(), String> {
    let operation = operation(&Method::POST, path_of(url));
    match operation.and_then(|operation| operation.body()) {
        Some(media) => validate(&Place(media.0 + "/schema"), body),
        None => Err("the document has no such operation, or it takes no JSON".to_owned()),
    }
}

/// Judges an answer. Which of the [`promised`] it is; none if what was called is no operation.
///
/// # Errors
/// What the document does not say.
pub fn judge(method: &Method, url: &str, answer: &Answer) -> Result<Option<String>, String> {
    let path = path_of(url);
    let found = template(path);
    let operation = operation(method, path);
    let body = answer.json();
    // A path of another listener is an unknown one here.
    let said = body["error"]["message"] == "no such path" || method == Method::HEAD;
    let unknown = answer.status == 404 && said;
    let verdict = match operation {
        Some(operation) if !unknown => judge_operation(&operation, answer, &body).map(Some),
        _ => judge_stranger(method, found, answer, &body).map(|()| None),
    };
    verdict.map_err(|words| {
        let shown = String::from_utf8_lossy(&answer.body);
        let shown: String = shown.chars().take(1000).collect();
        format!(
            "{method} {path} was answered {} {shown}\n{:?}\n{words}",
            answer.status, answer.headers
        )
    })
}

/// An unknown path, or an unknown method of a path.
fn judge_stranger(
    method: &Method,
    path: Option<&str>,
    answer: &Answer,
    body: &Value,
) -> Result<(), String> {
    let code = match answer.status {
        404 => "not_found",
        405 => "method_not_allowed",
        // What is said before the path is known.
        431 | 503 => return Ok(()),
        _ => {
            let words =
                "no such operation in src/api/openapi.json: see \"A new route\" in ARCHITECTURE.md";
            return Err(words.to_owned());
        }
    };
    if method != Method::HEAD {
        validate(&Place("/components/schemas/Error".to_owned()), body)?;
        if body["error"]["code"] != code {
            return Err(format!("the code is not {code}"));
        }
    }
    if answer.status == 405 {
        let listed = operations()
            .into_iter()
            .filter(|one| Some(one.path) == path);
        let mut listed: BTreeSet<String> = listed.map(|one| one.method.to_string()).collect();
        if listed.contains("GET") && !path.is_some_and(|path| STREAMS.contains(&path)) {
            listed.insert("HEAD".to_owned());
        }
        let allowed = answer.header("allow").unwrap_or_default().split(", ");
        let allowed: BTreeSet<String> = allowed.map(str::to_owned).collect();
        if listed != allowed {
            return Err(format!("the document has {listed:?}"));
        }
    }
    Ok(())
}

fn judge_operation(operation: &Operation, answer: &Answer, body: &Value) -> Result<String, String> {
    let status = answer.status.to_string();
    let Some(response) = operation.responses().child(&status) else {
        return Err(format!("{} does not list {status}", operation.id()));
    };
    judge_headers(&response, answer)?;
    let start = format!("{} {status}", operation.id());
    let content = response.child("content");
    let Some(content) = content.filter(|_| operation.method != Method::HEAD) else {
        return match &answer.body[..] {
            [] => Ok(start),
            _ => Err("no body is listed".to_owned()),
        };
    };
    let media = answer.header("content-type").unwrap_or_default();
    let media = media.split(';').next().unwrap_or_default();
    let Some(listed) = content.child(media) else {
        return Err(format!("the media type {media:?} is not listed"));
    };
    let schema = Place(format!("{}/schema", listed.0));
    match media {
        "application/json" => validate(&schema, body)?,
        "application/x-ndjson" => {
            let lines = serde_json::Deserializer::from_slice(&answer.body).into_iter::<Value>();
            let lines: Result<Vec<_>, _> = lines.collect();
            let lines = lines.map_err(|error| error.to_string())?;
            validate(&Place(format!("{}/contentSchema", schema.0)), &lines.into())?;
        }
        _ => validate(&schema, &String::from_utf8_lossy(&answer.body).into())?,
    }
    let kinds = kinds(&response, &operation.method);
    let kind = match body["error"]["code"].as_str() {
        Some(code) => code,
        None if kinds.iter().any(|kind| kind == media) => media,
        None => "",
    };
    Ok(format!("{start} {kind}").trim_end().to_owned())
}

fn judge_headers(response: &Place, answer: &Answer) -> Result<(), String> {
    let Some(headers) = response.child("headers") else {
        return Ok(());
    };
    for name in headers.keys() {
        let header = headers.child(name).expect("listed");
        let schema = Place(format!("{}/schema", header.0));
        match answer.header(name) {
            Some(value) => {
                let text = json!(value);
                let number = value.parse::<u64>().map(Value::from);
                let number = number.ok().filter(|_| schema.value()["type"] == "integer");
                validate(&schema, &number.unwrap_or(text))
                    .map_err(|words| format!("{name}: {words}"))?;
            }
            None if header.value()["required"] == true => return Err(format!("{name} is missing")),
            None => {}
        }
    }
    Ok(())
}

/// The document as the validator knows it, and what of it has been compiled.
struct Known {
    compiler: Compiler,
    schemas: Schemas,
    compiled: HashMap<String, SchemaIndex>,
}

thread_local! {
    static KNOWN: RefCell<Known> = {
        let mut compiler = Compiler::new();
        compiler.set_default_draft(Draft::V2020_12);
        let added = compiler.add_resource(ADDRESS, DOCUMENT.clone());
        added.expect("an address");
        let (schemas, compiled) = (Schemas::new(), HashMap::new());
        RefCell::new(Known { compiler, schemas, compiled })
    };
}

/// Validates a value by the schema at this place.
fn validate(schema: &Place, value: &Value) -> Result<(), String> {
    KNOWN.with_borrow_mut(|known| {
        let index = match known.compiled.get(&schema.0) {
            Some(index) => *index,
            None => {
                let pointer = schema.0.replace('{', "%7B").replace('}', "%7D");
                let address = format!("{ADDRESS}#{pointer}");
                let index = known.compiler.compile(&address, &mut known.schemas);
                let index = index.map_err(|error| format!("the schema {}: {error:#}", schema.0))?;
                known.compiled.insert(schema.0.clone(), index);
                index
            }
        };
        let valid = known.schemas.validate(value, index);
        valid.map_err(|error| format!("against {}: {error:#}", schema.0))
    })
}

/// Every example of the document by the schema beside it; what does not fit.
pub fn bad_examples() -> Vec<String> {
    let mut bad = Vec::new();
    look_for_examples("", &DOCUMENT, &mut bad);
    bad
}

fn look_for_examples(pointer: &str, value: &Value, bad: &mut Vec<String>) {
    let children: Vec<(String, &Value)> = match value {
        Value::Object(object) => object
            .iter()
            .map(|(name, child)| (name.replace('/', "~1"), child))
            .collect(),
        Value::Array(array) => array
            .iter()
            .enumerate()
            .map(|(i, child)| (i.to_string(), child))
            .collect(),
        _ => return,
    };
    if value.get("schema").is_some() {
        let schema = Place(format!("{pointer}/schema"));
        let several = value["examples"]
            .as_object()
            .into_iter()
            .flat_map(|all| all.values());
        let examples = several.map(|one| &one["value"]).chain(value.get("example"));
        bad.extend(examples.filter_map(|example| validate(&schema, example).err()));
    }
    for (name, child) in children {
        look_for_examples(&format!("{pointer}/{name}"), child, bad);
    }
}
