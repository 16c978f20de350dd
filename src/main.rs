//! The process: turns environment and signals into one call to [`pushnode::run`] and an exit code.

use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use parking_lot::Mutex;
use pushnode::protocol::ids::NodeId;
use pushnode::{Config, Invocation, Listen, LogFormat};
use pushnode::{Listeners, LogWriter, RunError, UNAVAILABLE, USAGE, VERSION};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot};

#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// The operating system refused a request (`EX_OSERR`).
const OS_ERROR: u8 = 71;

/// Told to end at once; the number of the signal is added, as shells do.
const KILLED: u8 = 128;

/// Threads beyond those that serve, which must be there at the start.
const SPARE_THREADS: usize = 4;
/// Most threads that look up names or fetch keys.
const BLOCKING_THREADS: usize = 32;

fn main() -> ExitCode {
    match Invocation::parse(std::env::args_os().skip(1)) {
        Ok(Invocation::Serve) => {}
        Ok(Invocation::Once(command)) => return command.run(),
        Err(what) => {
            eprintln!("pushnode: {what}");
            return ExitCode::from(USAGE);
        }
    }
    let config = match Config::from_env() {
        Ok(config) => config,
        Err(faults) => {
            eprintln!("pushnode: {faults}");
            return ExitCode::from(USAGE);
        }
    };
    let cannot_start = |error: &dyn std::fmt::Display| {
        eprintln!("pushnode: cannot start: {error}");
        ExitCode::from(OS_ERROR)
    };
    let log = match start_log(&config) {
        Ok(log) => log,
        Err(error) => return cannot_start(&error),
    };
    let runtime = match runtime(config.thread_count()) {
        Ok(runtime) => runtime,
        Err(error) => return cannot_start(&error),
    };
    // A panic ends the process, whatever still runs on other threads.
    let code = catch_unwind(AssertUnwindSafe(|| runtime.block_on(run(config, &log.0))));
    // Without waiting for threads that look up a name or fetch keys.
    runtime.shutdown_background();
    code.unwrap_or_else(|_| {
        log.0
            .say("pushnode: ended by the panic above; please report this bug");
        ExitCode::from(OS_ERROR)
    })
}

/// The runtime, once the system has shown that it gives its threads: tokio goes on with fewer, or
/// panics, and a node with too few may neither serve nor end.
fn runtime(threads: usize) -> Result<tokio::runtime::Runtime, String> {
    if let Err(error) = try_threads(threads + SPARE_THREADS) {
        return Err(format!(
            "the system does not give {} threads ({error}); allow more processes (pids_limit, \
            ulimit -u) or set PUSH_THREADS below {threads}",
            threads + SPARE_THREADS
        ));
    }
    let build = || {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(threads)
            .max_blocking_threads(BLOCKING_THREADS)
            .enable_all()
            .build()
    };
    match catch_unwind(build) {
        Ok(built) => built.map_err(|error| error.to_string()),
        Err(_) => Err("the runtime panicked, as told above".to_owned()),
    }
}

/// Whether the system gives so many threads at once.
fn try_threads(count: usize) -> std::io::Result<()> {
    let gate = Mutex::new(());
    std::thread::scope(|scope| {
        // Until all have started, or one has not, none ends.
        let _closed = gate.lock();
        for _ in 0..count {
            std::thread::Builder::new().spawn_scoped(scope, || drop(gate.lock()))?;
        }
        Ok(())
    })
}

/// The log. Dropping it writes the last lines, also when the main thread panics.
struct Log(LogWriter);

impl Drop for Log {
    fn drop(&mut self) {
        self.0.flush();
    }
}

/// The signals that a node obeys, from the moment this is made.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    quit: Signal,
    hangup: Signal,
}

enum Order {
    /// To end, by the signal of this number.
    End(u8),
    /// To read again what can change.
    Reload,
}

impl Signals {
    fn watch() -> std::io::Result<Self> {
        // Log rotation and other tools send these, and none expects that the node dies.
        let _ = signal(SignalKind::user_defined1())?;
        let _ = signal(SignalKind::user_defined2())?;
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> Order {
        let number = |kind: SignalKind| Order::End(kind.as_raw_value() as u8);
        tokio::select! {
            _ = self.terminate.recv() => number(SignalKind::terminate()),
            _ = self.interrupt.recv() => number(SignalKind::interrupt()),
            _ = self.quit.recv() => number(SignalKind::quit()),
            _ = self.hangup.recv() => Order::Reload,
        }
    }
}

async fn run(config: Config, log: &LogWriter) -> ExitCode {
    let node = NodeId::boot(&config.node_name);
    let listeners = match Listeners::bind(&config) {
        Ok(listeners) => listeners,
        Err(error) => {
            log.say(&format!("pushnode: {error}"));
            return ExitCode::from(UNAVAILABLE);
        }
    };
    let mut signals = match Signals::watch() {
        Ok(signals) => signals,
        Err(error) => {
            log.say(&format!("pushnode: cannot watch for signals: {error}"));
            return ExitCode::from(OS_ERROR);
        }
    };
    greet(&config, &node, &listeners);
    for line in config.changed_meanings() {
        tracing::info!("{line}");
    }
    let (end, ending) = oneshot::channel();
    let (reload, reloads) = mpsc::channel(1);
    let shutdown = async move {
        // The sender is dropped only with a signal.
        let _ = ending.await;
    };
    let mut end = Some(end);
    let mut running = std::pin::pin!(pushnode::run(config, node, listeners, shutdown, reloads));
    let ended = loop {
        let order = tokio::select! {
            ended = &mut running => break ended,
            order = signals.next() => order,
        };
        match (order, end.take()) {
            (Order::Reload, sender) => {
                end = sender;
                tracing::info!("SIGHUP: keys of tokens are read again");
                // If the last one is still waiting, it will do.
                let _ = reload.try_send(());
            }
            (Order::End(_), Some(sender)) => {
                let _ = sender.send(());
            }
            (Order::End(number), None) => {
                tracing::warn!("told to end again: the rest of the clients is cut off");
                return ExitCode::from(KILLED + number);
            }
        }
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log.say(&format!("pushnode: {error}"));
            ExitCode::from(match error {
                RunError::Redis(_) | RunError::Keys(_) => USAGE,
                RunError::Fatal(_) => UNAVAILABLE,
                RunError::System(_) => OS_ERROR,
            })
        }
    }
}

/// A few lines on standard output: where to go and how to send a first message.
fn greet(config: &Config, node: &NodeId, listeners: &Listeners) {
    let mut out = format!("pushnode {VERSION} node {node}\n");
    let who = match config.auth {
        auth if auth.is_none() => "?user=42",
        auth if auth.takes_jwt() || auth.takes_sessions() => "?token=...",
        _ => "",
    };
    for listen in listeners.clients() {
        out += &format!(
            "  clients    {} (WebSocket /ws{who}, SSE /sse{who})\n",
            url(&listen, "/")
        );
    }
    for listen in listeners.lines() {
        out += &format!("  lines      {listen} (TCP, one JSON object a line)\n");
    }
    for listen in listeners.senders() {
        out += &format!("  senders    {}\n", url(&listen, "/v1/push"));
    }
    for listen in listeners.admin() {
        out += &format!(
            "  operations {} (/healthz /readyz /metrics)\n",
            url(&listen, "/")
        );
    }
    out += &match &config.redis_url {
        None => "  backplane  embedded: this node by itself; set PUSH_REDIS_URL to run several\n"
            .to_owned(),
        Some(url) => format!("  backplane  redis {url}\n"),
    };
    if let Some(sender) = listeners.senders().first() {
        let curl = match sender {
            Listen::Tcp(_) => format!("curl -s {}", url(sender, "/v1/push")),
            Listen::Proxied(_) => {
                format!("curl -s --haproxy-protocol {}", url(sender, "/v1/push"))
            }
            Listen::Unix(path) => {
                format!(
                    "curl -s --unix-socket {} http://localhost/v1/push",
                    path.display()
                )
            }
        };
        let key = if config.api_keys.is_empty() {
            ""
        } else {
            " -H 'authorization: Bearer <key>'"
        };
        out += &format!(
            "  try it     {curl}{key} -H 'content-type: application/json' -d '{{\"to\":{{\"user\":\"42\"}},\"data\":\"hello\"}}'\n"
        );
    }
    // Standard output may be closed; the node runs all the same.
    let mut stdout = std::io::stdout().lock();
    let _ = stdout
        .write_all(out.as_bytes())
        .and_then(|()| stdout.flush());
}

fn url(listen: &Listen, path: &str) -> String {
    match listen {
        Listen::Tcp(address) | Listen::Proxied(address) => format!("http://{address}{path}"),
        Listen::Unix(_) => listen.to_string(),
    }
}

/// From here on nothing waits for the reader of standard error.
fn start_log(config: &Config) -> std::io::Result<Log> {
    let writer = LogWriter::start(std::io::stderr())?;
    let (lines, panics) = (writer.clone(), writer.clone());
    std::panic::set_hook(Box::new(move |panic| {
        panics.say(&format!("pushnode: {panic}"));
    }));
    let builder = tracing_subscriber::fmt()
        .with_writer(move || lines.clone())
        .with_max_level(config.log)
        .with_target(false)
        .log_internal_errors(false);
    match config.log_format {
        LogFormat::Text => builder.with_ansi(false).init(),
        LogFormat::Json => builder.json().flatten_event(true).init(),
    }
    Ok(Log(writer))
}
