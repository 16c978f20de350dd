//! The page at `/` in a real browser: what a newcomer clicks must work.
//!
//! Headless Chromium is driven through chromedriver; the few WebDriver commands we need are plain
//! HTTP and JSON. Every wait polls with a limit. Whatever is started ends with its guard, also
//! after a panic.

mod browser;
#[path = "../common/mod.rs"]
mod common;

use reqwest::Method;
use serde_json::json;

use browser::{Browser, Node, http};

#[test]
fn a_push_over_http_appears_on_the_page() {
    let node = Node::start(&[]);
    let browser = Browser::start(1280, 860, "light");
    browser.connect(&node, "anna");

    browser.until(
        "node and fd of `ready` are shown",
        "return text('#node').startsWith('page.') && Number(text('#fd')) > 0",
    );
    assert_eq!(browser.text("#status"), "Connected");

    let answer = node.push(&json!({"to": {"user": "anna"}, "data": "dinner is ready"}));
    assert_eq!(answer["connections"], 1, "{answer}");
    browser.until(
        "the push is shown",
        "return text('.message-data') === '\"dinner is ready\"'",
    );
    assert_eq!(browser.text(".message-size"), "17 B");
    browser.until(
        "its time has milliseconds",
        r"return /^\d\d:\d\d:\d\d\.\d{3}$/.test(text('.message-time'))",
    );

    // Numbers no JavaScript can hold and text that looks like HTML are shown as they were sent.
    node.push_text(r#"{"to":{"user":"anna"},"id":"m1","data":{"n":12345678901234567890,"html":"<b id=injected>"}}"#);
    browser.until(
        "the second push is shown",
        "return text('.message-data').includes('12345678901234567890')",
    );
    browser.until("data is no HTML", "return text('.message-data').includes('<b id=injected>') && !document.querySelector('#injected')");
    assert_eq!(browser.text(".message-id"), "id m1");

    browser.until(
        "nothing was fetched from elsewhere",
        "return performance.getEntriesByType('resource').every(e => new URL(e.name).host === location.host)",
    );
    let console = browser
        .command("/se/log", Some(json!({"type": "browser"})))
        .expect("the console of the page");
    assert_eq!(console, json!([]), "the page complains on its console");
}

#[test]
fn the_page_sends_to_its_user_and_to_everyone() {
    let node = Node::start(&[]);
    let browser = Browser::start(1280, 860, "light");
    browser.connect(&node, "anna");

    browser.write("#data", "to myself");
    browser.click("#send");
    browser.until(
        "the answer is shown",
        r"return /^routed · 1 connection on 1 node · [\d.]+\sms$/.test(text('#answer'))",
    );
    browser.until(
        "the message is shown",
        "return text('.message-data') === '\"to myself\"'",
    );

    browser.click("#to-kind option[value=all]");
    browser.click("#data-kind option[value=json]");
    browser.click("#wait option[value=acked]");
    browser.write("#data", r#"{"to": "all"}"#);
    browser.click("#send");
    browser.until(
        "the message to all is shown",
        r#"return text('.message-data') === '{"to": "all"}'"#,
    );
    browser.until(
        "our own ack is in the answer",
        "return text('#answer').startsWith('acked · 1 connection')",
    );

    browser.write("#data", r#"{"to": "#);
    browser.click("#send");
    browser.until(
        "what is no JSON is not sent",
        "return text('#answer').startsWith('This is not JSON')",
    );

    browser.click("#to-kind option[value=user]");
    browser.click("#data-kind option[value=text]");
    browser.click("#wait option[value=routed]");
    browser.write("#to-user", "nobody");
    browser.click("#send");
    browser.until(
        "who is not there is said to be offline",
        "return text('#answer').startsWith('offline')",
    );
}

#[test]
fn the_page_gets_what_was_kept_while_it_was_away() {
    let node = Node::start(&[]);
    let browser = Browser::start(1280, 860, "light");
    browser.connect(&node, "anna");
    browser.click("#connect");
    browser.until("it is away", "return text('#status') === 'Disconnected'");

    browser.write("#data", "for later");
    browser.click("#keep option[value=keep]");
    browser.click("#send");
    browser.until(
        "the answer says that it is kept",
        "return text('#answer').startsWith('stored (kept in the inbox) · ')",
    );
    browser.click("#connect");
    browser.until(
        "it comes",
        "return text('.message-data') === '\"for later\"'",
    );
    browser.until(
        "it comes once, and nothing is said to be missing",
        "return text('#count') === '1 message' && !document.body.innerText.includes('may be missing')",
    );
}

#[test]
fn the_page_connects_over_server_sent_events_too() {
    let node = Node::start(&[]);
    let browser = Browser::start(1280, 860, "light");
    browser.open(&node, "anna");
    browser.click("#transport option[value=sse]");
    browser.click("#connect");
    browser.until("connected", "return text('#status') === 'Connected'");
    node.push_text(r#"{"to":{"user":"anna"},"data":{"n":12345678901234567890}}"#);
    browser.until(
        "the push is shown",
        "return text('.message-data').includes('12345678901234567890')",
    );
    kick_anna(&node);
    browser.until(
        "the kick is told and obeyed",
        "return text('#messages').includes('Bye: kicked') && text('#connect') === 'Connect'",
    );
}

/// A bare `EventSource`, which comes back by itself: all that a page of somebody else needs.
#[test]
fn an_event_source_comes_back_after_a_drain_with_nothing_lost() {
    let redis = common::Redis::start();
    let (url, listen) = (redis.url(), format!("127.0.0.1:{}", common::free_port()));
    let at = |listen: &str, name: &str| {
        Node::start(&[
            ("PUSH_REDIS_URL", &url),
            ("PUSH_NODE_NAME", name),
            ("PUSH_LISTEN", listen),
        ])
    };
    let sender = at("127.0.0.1:0", "sender");
    sender.wait_ready();
    let mut node = at(&listen, "first");
    node.wait_ready();
    let keep = |number: u32| {
        sender.push(&json!({"to": {"user": "anna"}, "keep": true, "data": number}));
    };
    let browser = Browser::start(1280, 860, "light");
    browser.open(&node, "anna");
    browser.run(
        "window.numbers = []; window.told = []; window.source = new EventSource('/sse?user=anna');
         source.onmessage = event => numbers.push(JSON.parse(event.data));
         for (const name of ['ready', 'bye', 'resync'])
             source.addEventListener(name, event => told.push(JSON.parse(event.data)));",
        &json!([]),
    );
    browser.until("it is in", "return told.length === 1");
    keep(1);
    browser.until("a push comes", "return numbers.length === 1");

    node.process.terminate();
    browser.until(
        "the goodbye comes",
        "return told.some(one => one.type === 'bye' && one.reason === 'drain' && one.retry_ms > 0)",
    );
    node.process.wait();
    keep(2);
    keep(3);
    node = at(&listen, "second");
    keep(4);
    browser.until(
        "what was missed came, once and in order",
        "return JSON.stringify(numbers) === '[1,2,3,4]'",
    );
    browser.until(
        "and it was told that this is all",
        "const ready = told.filter(one => one.type === 'ready'); \
         return ready.length === 2 && ready[1].recovered && ready[1].node.startsWith('second.')",
    );

    // Kicked, it tries once more by itself, and is made to stop.
    node.wait_ready();
    kick_anna(&node);
    browser.until("it has given up", "return source.readyState === 2");
    browser.until(
        "it knows why",
        "return told.at(-1).type === 'bye' && told.at(-1).code === 4001",
    );
}

#[test]
fn the_page_says_so_when_the_senders_api_wants_a_key_or_is_elsewhere() {
    let browser = Browser::start(1280, 860, "light");

    let node = Node::start(&[("PUSH_API_KEYS", "a-key-of-32-characters-for-tests")]);
    browser.connect(&node, "anna");
    browser.click("#send");
    browser.until(
        "the key is asked for",
        "return text('#answer').startsWith('401') && document.activeElement.id === 'key'",
    );
    browser.write("#key", "a-key-of-32-characters-for-tests");
    browser.click("#send");
    browser.until(
        "the key opens",
        "return text('#answer').startsWith('routed')",
    );
    browser.until(
        "the key is not for the screen",
        "return !document.body.innerText.includes('a-key-of')",
    );

    let node = Node::start(&[("PUSH_API_LISTEN", "127.0.0.1:0")]);
    browser.connect(&node, "anna");
    browser.click("#send");
    browser.until(
        "the other port is named",
        "return text('#answer').startsWith('404') && text('#answer').includes('PUSH_API_LISTEN')",
    );
}

#[test]
fn the_page_tells_why_it_was_closed_and_comes_back_unless_kicked() {
    let node = Node::start(&[]);
    let browser = Browser::start(1280, 860, "light");
    browser.connect(&node, "anna");

    kick_anna(&node);
    browser.until(
        "the kick is told and obeyed",
        "return text('#status') === 'Kicked' && text('#connect') === 'Connect'",
    );

    browser.click("#connect");
    browser.until("connected again", "return text('#status') === 'Connected'");
    node.process.terminate();
    browser.until(
        "the goodbye is told",
        "return text('#messages').includes('Bye: drain')",
    );
    browser.until(
        "the page means to come back",
        "return text('#status') === 'Reconnecting'",
    );
    browser.click("#connect");
    browser.until(
        "unless it is told not to",
        "return text('#status') === 'Disconnected'",
    );
}

#[test]
fn a_phone_in_dark_mode_scrolls_only_down() {
    let node = Node::start(&[]);
    let browser = Browser::start(360, 740, "dark");
    let only_down = "const e = document.documentElement, list = document.querySelector('#messages'); \
                     return innerWidth === 360 && e.scrollWidth <= e.clientWidth && list.scrollWidth <= list.clientWidth";

    browser.open(&node, "anna");
    browser.until(
        "the page is dark",
        "const [r, g, b] = getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number); \
         return matchMedia('(prefers-color-scheme: dark)').matches && r + g + b < 150",
    );
    browser.until("it fits before it is connected", only_down);

    // The longest id and data without a place to break.
    let user = "u".repeat(128);
    browser.connect(&node, &user);
    node.push(&json!({"to": {"user": user}, "id": "i".repeat(60), "data": {"word": "w".repeat(2000), "deep": [[[[[[[["d".repeat(80)]]]]]]]]}}));
    browser.until(
        "the message is shown",
        "return text('.message-data').includes('wwwww')",
    );
    browser.click("#key-box summary");
    browser.click("#send");
    browser.until(
        "the answer is shown",
        "return text('#answer').startsWith('routed')",
    );
    browser.until("it fits with long content", only_down);
    browser.until(
        "fingers hit what they aim at",
        "return [...document.querySelectorAll('button, input, select, textarea')].every(e => e.hidden || e.getBoundingClientRect().height >= 40)",
    );
}

#[test]
fn the_page_connects_by_a_token_and_tells_of_its_end() {
    let node = Node::start(&[("PUSH_AUTH", "session")]);
    let sessions = format!("{}/v1/sessions", node.url);
    // A client is told from 30 s before the end, so this one at once. Nobody waits for the end
    // itself: a slow browser would only see the one or the other.
    let session = || {
        let wish = json!({"user": "anna", "ttl_seconds": 29}).to_string();
        let (_, answer) = http(Method::POST, &sessions, Some(&wish)).expect("an answer");
        let opened: serde_json::Value = serde_json::from_str(&answer).expect("JSON");
        opened["token"].as_str().expect("a token").to_owned()
    };
    let browser = Browser::start(1280, 860, "light");
    // The browser's first page is its slowest.
    browser.open(&node, "nobody");
    for transport in ["ws", "sse"] {
        let token = session();
        let url = format!("{}/?token={token}", node.url);
        let page = browser.command("/url", Some(json!({ "url": url })));
        page.expect("the page");
        browser.until(
            "the token does not stay in the address",
            "return location.hash.startsWith('#user=') && !location.href.includes('token')",
        );
        let choose = "document.querySelector('#transport').value = arguments[0]";
        browser.run(choose, &json!([transport]));
        browser.click("#connect");
        browser.until(
            "it is connected as whom the token names",
            "return text('#messages').includes('Connected as anna') \
             && document.querySelector('#user').value === 'anna'",
        );
        browser.until(
            "the end is told before it comes",
            "return text('#messages').includes('ends in')",
        );
        let wish = json!({ "token": token }).to_string();
        let (status, answer) = http(Method::DELETE, &sessions, Some(&wish)).expect("an answer");
        assert_eq!(status, 200, "{answer}");
        browser.until(
            "it does not come back with a token that has ended",
            "return text('#status') === 'Closed' && text('#connect') === 'Connect'",
        );
    }
}

#[test]
fn the_page_follows_topics_and_sees_who_is_there() {
    let node = Node::start(&[]);
    let browser = Browser::start(1280, 860, "light");
    browser.open(&node, "anna");
    // Before it connects, and once more while it is connected.
    browser.click("#join");
    browser.click("#connect");
    browser.until(
        "it is in the topic",
        "return text('#topic-list') === 'news1 here: annaLeave'",
    );
    browser.write("#topic", "sport");
    browser.click("#join");
    browser.until(
        "it is in both",
        "return text('#topic-list').includes('sport1 here: anna')",
    );

    browser.click("#to-kind option[value=topic]");
    browser.write("#data", "goal");
    browser.click("#send");
    browser.until(
        "a push to a topic is shown as one",
        "return text('.message-data') === '\"goal\"' && text('.message-topic') === 'topic news'",
    );
    browser.run(
        "window.bob = pushnode.connect(location.origin, {user: 'bob'}); bob.topic('news')",
        &json!([]),
    );
    browser.until(
        "a user who comes is shown",
        "return text('#topic-list').includes('2 here: anna, bob')",
    );
    browser.run("bob.close()", &json!([]));
    browser.until(
        "a user who goes is, too",
        "return text('#topic-list').includes('news1 here: anna')",
    );
    browser.click("#topic-list button");
    browser.until(
        "it has left one topic",
        "return text('#topic-list') === 'sport1 here: annaLeave'",
    );
}

#[test]
fn several_users_are_on_one_page_each_with_its_own_log() {
    let node = Node::start(&[]);
    let browser = Browser::start(1280, 860, "light");
    browser.connect(&node, "anna");
    browser.click("#join");
    for user in ["bob", "cid"] {
        browser.click("#another");
        browser.run(
            "const form = [...document.querySelectorAll('.other form')].at(-1); \
             form.user.value = arguments[0]; \
             if (arguments[0] === 'cid') form.transport.value = 'sse'; \
             form.requestSubmit();",
            &json!([user]),
        );
        browser.until(
            "one more is connected",
            &format!(
                "return [...document.querySelectorAll('.other')].some(card => \
                 card.innerText.includes('{user}') && card.innerText.includes('Connected as {user}'))"
            ),
        );
    }
    browser.until(
        "all are in the topic of the page",
        "return text('#topic-list').includes('3 here: anna, bob, cid')",
    );

    // Each has what is addressed to it, and nothing else.
    for user in ["anna", "bob", "cid"] {
        node.push(&json!({"to": {"user": user}, "data": format!("to {user}")}));
    }
    node.push_text(r#"{"to":{"topic":"news"},"data":12345678901234567890}"#);
    let logs = "const logs = [...document.querySelectorAll('.list')].map(list => \
                [...list.querySelectorAll('.message-data')].map(e => e.textContent).sort().join('|'));";
    browser.until(
        "each log has two messages of its own",
        &format!(
            "{logs} return logs[0] === '\"to anna\"|12345678901234567890' \
             && logs[1] === '\"to bob\"|12345678901234567890' \
             && logs[2].startsWith('\"to cid\"|1234567890')"
        ),
    );

    // One comes back from a broken line, and the page's own user answers to nobody else's calls.
    browser.click(".other .cut");
    browser.until(
        "it is back",
        "return document.querySelector('.other .list').innerText.match(/Connected as bob/g).length === 2",
    );
    let url = format!("{}/v1/call", node.url);
    let ask = json!({"to": {"user": "bob"}, "data": "how far?"}).to_string();
    let (status, answer) = http(Method::POST, &url, Some(&ask)).expect("an answer");
    assert_eq!(status, 200, "{answer}");
    browser.until(
        "the one who was asked says so",
        "const logs = [...document.querySelectorAll('.list')].map(list => list.innerText.includes('how far?')); \
         return String(logs) === 'false,true,false'",
    );

    browser.click("#topic-list button");
    browser.click(".other .remove");
    browser.until(
        "it has stopped",
        "return document.querySelector('.other .status').textContent === 'Disconnected'",
    );
    browser.click(".other .remove");
    browser.until(
        "it is gone, and the other stays",
        "return document.querySelectorAll('.other').length === 1 \
         && document.querySelector('.other h2').textContent === 'cid'",
    );
}

#[test]
fn the_page_answers_a_call_and_comes_back_from_a_broken_line_with_what_was_kept() {
    let node = Node::start(&[]);
    let browser = Browser::start(1280, 860, "light");
    browser.connect(&node, "anna");
    browser.write("#reply", r#"{"percent": 12}"#);
    browser.click("#wait option[value=answered]");
    browser.click("#send");
    browser.until(
        "its own answer comes",
        r#"return text('#answer').startsWith('answered · {"percent":12}')"#,
    );
    browser.until(
        "the question is shown",
        "return text('#messages').includes('Asked: \"Hello!\"')",
    );

    browser.click("#cut");
    node.push(&json!({"to": {"user": "anna"}, "keep": true, "data": "meanwhile"}));
    browser.until(
        "it comes back, and has what was kept",
        "return text('#status') === 'Connected' && text('.message-data') === '\"meanwhile\"' \
         && text('.message-kept') === 'kept'",
    );
}

#[test]
fn the_send_button_is_in_sight_on_a_small_desktop() {
    let node = Node::start(&[]);
    let browser = Browser::start(1280, 860, "light");
    // Of the page itself: a window has a bar, too.
    let size = json!({"width": 1280, "height": 720, "deviceScaleFactor": 1, "mobile": false});
    let emulate = json!({"cmd": "Emulation.setDeviceMetricsOverride", "params": size});
    browser
        .command("/goog/cdp/execute", Some(emulate))
        .expect("a size");
    browser.connect(&node, "anna");
    browser.until(
        "the button is in sight",
        "scrollTo(0, 0); \
         return innerHeight === 720 && document.querySelector('#send').getBoundingClientRect().bottom <= 720",
    );
}

fn kick_anna(node: &Node) {
    let url = format!("{}/v1/users/anna", node.url);
    let (status, answer) = http(Method::DELETE, &url, None).expect("an answer to the kick");
    assert_eq!(status, 200, "{answer}");
}
