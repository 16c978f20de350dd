//! docs/hooks.md, the frameworks: each with a session of its own, opened as a browser would.
//!
//! Each block is put where the document says, into the application that the framework makes.

use std::path::Path;
use std::process::Command;

use reqwest::Response;
use reqwest::header::{HeaderMap, SET_COOKIE};
use tempfile::TempDir;

use crate::common::hooks::SECRET;
use crate::common::{PATIENCE, free_port};
use crate::hooks::{Program, block};
use crate::publishers::tool;
use crate::quickstarts::{left_out, run};

/// The user of the sessions of Laravel and Rails.
const USER: &str = "42";

fn folder() -> TempDir {
    tempfile::tempdir().expect("a folder")
}

fn address() -> String {
    format!("127.0.0.1:{}", free_port())
}

fn example(kind: &str) -> String {
    block("docs/hooks.md", kind)
}

fn save(file: &Path, text: &str) {
    std::fs::create_dir_all(file.parent().expect("a folder")).expect("made");
    std::fs::write(file, text).expect("written");
}

/// Adds these lines below the one that begins so.
fn add_below(file: &Path, first: &str, lines: &str) {
    let text = std::fs::read_to_string(file).expect("a file of the application");
    let at = text.find(first).expect(first);
    let at = at + text[at..].find('\n').expect("an end") + 1;
    save(file, &[&text[..at], lines, &text[at..]].concat());
}

fn add_at_end(file: &Path, lines: &str) {
    let text = std::fs::read_to_string(file).expect("a file of the application");
    save(file, &[&text, lines].concat());
}

/// Whether this command succeeds, and so what it needs is installed.
fn succeeds(program: &str, arguments: &[&str]) -> bool {
    let output = Command::new(program).args(arguments).output();
    output.is_ok_and(|output| output.status.success())
}

/// As a browser that shows a redirect instead of following it.
fn browser() -> reqwest::Client {
    reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .timeout(PATIENCE)
        .build()
        .expect("a client")
}

/// What a browser would send back of the cookies in this answer.
fn cookies(headers: &HeaderMap) -> String {
    let set = headers.get_all(SET_COOKIE).iter();
    let pairs = set.map(|one| one.to_str().expect("a cookie").split(';').next());
    let pairs: Vec<&str> = pairs.flatten().collect();
    assert!(!pairs.is_empty(), "no cookie in {headers:?}");
    pairs.join("; ")
}

async fn get(url: String) -> Response {
    let answer = browser().get(&url).send().await.expect("an answer");
    assert!(answer.status().is_success(), "{url}: {answer:?}");
    answer
}

/// The framework refuses a form of another page by itself: so its protection is on.
async fn refuses_forms(url: String, status: u16) {
    let answer = browser().post(url).body("a=1").send().await;
    assert_eq!(answer.expect("an answer").status(), status);
}

#[tokio::test]
async fn django() {
    let folder = folder();
    let python = |arguments: &[&str]| {
        let mut command = Command::new(tool("venv/bin/python"));
        command
            .args(arguments)
            .current_dir(folder.path())
            .envs([("PUSH_HOOK_SECRET", SECRET)])
            .envs([("DJANGO_SUPERUSER_PASSWORD", "a password")]);
        command
    };
    run(python(&["-m", "django", "startproject", "shop", "."]));
    let file = |name: &str| folder.path().join("shop").join(name);
    save(&file("push.py"), &example("python django"));
    add_at_end(&file("settings.py"), &example("python django-settings"));
    add_at_end(&file("urls.py"), &example("python django-urls"));
    run(python(&["manage.py", "migrate"]));
    let user = ["--noinput", "--username", "ann", "--email", "a@example.org"];
    run(python(
        &[&["manage.py", "createsuperuser"][..], &user].concat(),
    ));
    let address = address();
    let server = python(&["manage.py", "runserver", "--noreload", &address]);
    let program = Program::start(server, address, folder);
    program.listens().await;

    let login = program.url("admin/login/");
    refuses_forms(login.clone(), 403).await;
    let before = cookies(get(login.clone()).await.headers());
    let token = before.strip_prefix("csrftoken=").expect("a token");
    let answer = browser()
        .post(login)
        .header("cookie", &before)
        .header("x-csrftoken", token)
        .header("content-type", "application/x-www-form-urlencoded")
        .body("username=ann&password=a+password&next=/")
        .send();
    let answer = answer.await.expect("an answer");
    assert_eq!(answer.status(), 302, "{}", program.file("log"));
    // The first user of the table.
    program.serves(&cookies(answer.headers()), "1").await;
}

#[tokio::test]
async fn rails() {
    if !succeeds("rails", &["--version"]) || !succeeds("ruby", &["-e", "gem 'puma'"]) {
        return left_out(
            "the blocks of Rails in docs/hooks.md, for Rails or Puma is not installed",
        );
    }
    let folder = folder();
    let mut new = Command::new("rails");
    new.current_dir(folder.path())
        .args(["new", "shop", "--minimal", "--skip-bundle", "--skip-git"])
        .args(["--skip-active-record", "--skip-sprockets", "--skip-listen"]);
    run(new);
    let shop = folder.path().join("shop");
    // Without the gems that only help to develop.
    save(&shop.join("Gemfile"), "gem 'rails'\ngem 'puma'\n");
    let initializer = example("ruby rails-initializer");
    save(
        &shop.join("config/initializers/push_hooks.rb"),
        &initializer,
    );
    let controller = example("ruby rails-controller");
    save(
        &shop.join("app/controllers/push_controller.rb"),
        &controller,
    );
    let pages = "class PagesController < ApplicationController\n\
                 def login\n session[:user_id] = params[:user].to_i\n head 204\n end\n\
                 def order\n head 204\n end\n\
                 end\n";
    save(&shop.join("app/controllers/pages_controller.rb"), pages);
    let routes = example("ruby rails-routes");
    let pages = "get 'login/:user', to: 'pages#login'\npost 'order', to: 'pages#order'\n";
    let all = [&routes, pages].concat();
    add_below(&shop.join("config/routes.rb"), "Rails.application.", &all);

    let address = address();
    let (host, port) = address.split_once(':').expect("host and port");
    let mut server = Command::new("ruby");
    server
        .args(["bin/rails", "server", "-b", host, "-p", port])
        .current_dir(shop)
        .envs([("PUSH_HOOK_SECRET", SECRET), ("RAILS_ENV", "development")]);
    let program = Program::start(server, address.clone(), folder);
    program.listens().await;

    refuses_forms(program.url("order"), 422).await;
    let session = get(program.url(&format!("login/{USER}"))).await;
    let session = cookies(session.headers());
    program.serves(&session, USER).await;
    // The log has what was asked, without the cookies that would open a session to its readers.
    let log = program.file("shop/log/development.log");
    assert!(log.contains("PushController#connect"), "{log}");
    let (_, value) = session.split_once('=').expect("a cookie");
    assert!(!log.contains(value) && !log.contains("theme=dark"), "{log}");
}

#[tokio::test]
async fn laravel() {
    let check = "exit((int) !@include 'Illuminate/autoload.php');";
    if !succeeds("php", &["-r", check]) {
        return left_out("the blocks of Laravel in docs/hooks.md, for Laravel is not installed");
    }
    let folder = folder();
    let file = |name: &str| folder.path().join(name);
    std::fs::create_dir_all(file("bootstrap/cache")).expect("made");
    let middleware = example("php laravel-middleware");
    save(&file("app/Http/Middleware/PushHooks.php"), &middleware);
    save(&file("routes/push.php"), &example("php laravel-routes"));
    let boot = format!("<?php\n{}", example("php laravel-boot"));
    save(&file("boot.php"), &boot);
    let services = format!("<?php\nreturn [\n{}];\n", example("php laravel-services"));
    save(&file("services.php"), &services);
    let address = address();
    let mut server = Command::new("php");
    server
        .args(["-S", &address])
        .arg(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/cluster/laravel.php"
        ))
        .current_dir(folder.path())
        .env("PUSH_HOOK_SECRET", SECRET);
    let program = Program::start(server, address.clone(), folder);
    program.listens().await;

    refuses_forms(program.url("order"), 419).await;
    let session = get(program.url(&format!("login/{USER}"))).await;
    program.serves(&cookies(session.headers()), USER).await;
}
